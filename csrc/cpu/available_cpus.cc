#include "cpu/available_cpus.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>

namespace swa_fast::cpu {
namespace {

// Seconds from one reading to the next. Idle time is counted in steps of 10 ms: over this time the
// number of CPUs is right to a tenth.
constexpr double kWindow = 0.1;

// Share of a reading's time in the mean.
constexpr double kNewShare = 0.25;

double wall_seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

}  // namespace

bool read_cpu_times(CpuTimes* times, const std::string& root) {
  times->wall = wall_seconds();
  timespec own = {};
  if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own) != 0) return false;
  times->own = static_cast<double>(own.tv_sec) + static_cast<double>(own.tv_nsec) * 1e-9;

  // Two numbers of seconds: since the system started, and idle. They have two decimals, which are
  // read as integers: the decimal point that strtod() knows depends on the program's locale.
  const int file = open((root + "/proc/uptime").c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  char text[128];
  const ssize_t length = read(file, text, sizeof text - 1);
  close(file);
  if (length <= 0) return false;
  text[length] = '\0';
  unsigned long long seconds = 0;
  unsigned hundredths = 0;
  if (std::sscanf(text, "%*u.%*u %llu.%2u", &seconds, &hundredths) != 2) return false;
  times->idle = static_cast<double>(seconds) + hundredths * 0.01;
  return true;
}

double cpus_available(const CpuTimes& from, const CpuTimes& to) {
  const double wall = to.wall - from.wall;
  return wall > 0 ? (to.idle - from.idle + to.own - from.own) / wall : 0;
}

double AvailableCpus::latest() {
  if (!claimed_.test_and_set(std::memory_order_acquire)) {
    const bool due =
        forgotten_.load(std::memory_order_relaxed) || wall_seconds() - start_.wall >= kWindow;
    if (due && paid_.load(std::memory_order_relaxed) >= price_) read();
    claimed_.clear(std::memory_order_release);
  }
  return latest_.load(std::memory_order_relaxed);
}

void AvailableCpus::read() {
  const bool restarts = forgotten_.exchange(false, std::memory_order_relaxed);
  const double begin = wall_seconds();
  CpuTimes now = {};
  const bool known = read_cpu_times(&now);
  const bool complete = known && known_ && !restarts;
  latest_.store(complete ? cpus_available(start_, now) : 0, std::memory_order_relaxed);
  start_ = now;
  known_ = known;
  paid_.store(0, std::memory_order_relaxed);
  price_ += (wall_seconds() - begin - price_) * kNewShare;
}

void AvailableCpus::forget() {
  latest_.store(0, std::memory_order_relaxed);
  forgotten_.store(true, std::memory_order_relaxed);
}

// Two callers at one moment may pay once: nothing depends on the last microsecond.
void AvailableCpus::pay(double seconds) {
  paid_.store(paid_.load(std::memory_order_relaxed) + seconds, std::memory_order_relaxed);
}

}  // namespace swa_fast::cpu
