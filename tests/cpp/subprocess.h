// Runs a function in a forked child, with a limit on its time.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <string>

// What became of the child: "ok", "failed", "hung", or the signal that ended it.
template <class Body>
std::string in_forked_child(const Body& body, unsigned seconds = 60) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGALRM, SIG_DFL);
    alarm(seconds);
    _exit(body() ? 0 : 1);  // without exit handlers: they belong to the parent
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return "could not run";
  if (WIFSIGNALED(status)) {
    return WTERMSIG(status) == SIGALRM ? "hung" : "signal " + std::to_string(WTERMSIG(status));
  }
  return WEXITSTATUS(status) == 0 ? "ok" : "failed";
}
