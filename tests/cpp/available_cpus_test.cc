// How many CPUs this process could have used: the clocks, and the number made of them.
#include "cpu/available_cpus.h"

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

using swa_fast::cpu::AvailableCpus;
using swa_fast::cpu::cpus_available;
using swa_fast::cpu::CpuTimes;
using swa_fast::cpu::read_cpu_times;

namespace {

double seconds_now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

// Uses one CPU until so many seconds have passed.
void spin(double seconds) {
  for (const double end = seconds_now() + seconds; seconds_now() < end;) {
  }
}

// What is read as idle time where /proc/uptime has this text; -1 where it is refused.
double idle_of(const std::string& uptime) {
  std::string root = "/tmp/swa_fast_XXXXXX";
  if (mkdtemp(root.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  mkdir((root + "/proc").c_str(), 0700);
  const std::string file = root + "/proc/uptime";
  std::ofstream(file) << uptime;
  CpuTimes times = {};
  const double idle = read_cpu_times(&times, root) ? times.idle : -1;
  unlink(file.c_str());
  rmdir((root + "/proc").c_str());
  rmdir(root.c_str());
  return idle;
}

bool near(double got, double expected) { return std::fabs(got - expected) < 1e-9; }

}  // namespace

TEST(idle_time_is_the_second_number) {
  CHECK(near(idle_of("350735.47 234388.90\n"), 234388.90));
  CHECK(near(idle_of("1.00 0.05\n"), 0.05));
  CHECK(near(idle_of("99999999.99 12799999998.72\n"), 12799999998.72));
}

TEST(what_is_no_idle_time_is_refused) {
  for (const char* const text : {"", "\n", "garbage", "1.00", "1.00 \n", "1.00 x.00", "1.00 5"}) {
    CHECK_WITH(idle_of(text) == -1, text);
  }
  CpuTimes times = {};
  CHECK(!read_cpu_times(&times, "/nowhere/at/all"));
}

TEST(available_is_what_was_used_or_idle) {
  const CpuTimes from = {10.0, 500.0, 7.0};
  CHECK(near(cpus_available(from, {10.5, 500.5, 7.25}), 1.5));
  CHECK(near(cpus_available(from, {10.5, 500.0, 7.0}), 0));  // others use them all
  CHECK(near(cpus_available(from, {11.0, 500.0, 9.0}), 2));  // this process does
  CHECK(near(cpus_available(from, {10.0, 500.0, 7.0}), 0));  // no time has passed
}

TEST(own_time_counts_all_threads) {
  CpuTimes from = {}, to = {};
  read_cpu_times(&from);
  std::thread other(spin, 0.05);
  other.join();
  read_cpu_times(&to);
  CHECK(to.own > from.own);
  CHECK(to.wall >= from.wall + 0.05);
}

// However busy the machine is: no less than this process had itself.
TEST(it_is_known_after_a_while_and_until_it_is_forgotten) {
  AvailableCpus available;
  available.pay(1000);
  CHECK_EQ(available.latest(), 0.0);
  available.pay(1000);
  CHECK_EQ(available.latest(), 0.0);
  spin(0.15);
  CpuTimes times = {};
  const bool can_be_known = read_cpu_times(&times);
  const double latest = available.latest();
  CHECK_EQ(latest > 0, can_be_known);
  CHECK_EQ(available.latest(), latest);
  available.pay(1000);
  available.forget();
  CHECK_EQ(available.latest(), 0.0);
  available.pay(1000);
  spin(0.15);
  CHECK_EQ(available.latest() > 0, can_be_known);
}

TEST(readings_wait_until_they_are_paid_for) {
  AvailableCpus available;
  available.latest();  // the first is free: what one takes is not known before
  spin(0.15);
  CHECK_EQ(available.latest(), 0.0);
  available.pay(1e-12);
  CHECK_EQ(available.latest(), 0.0);
  available.pay(1000);
  CpuTimes times = {};
  CHECK_EQ(available.latest() > 0, read_cpu_times(&times));
}

TEST(many_callers_at_once) {
  AvailableCpus available;
  std::vector<std::thread> callers;
  std::vector<int> wrong(4, 0);
  for (size_t caller = 0; caller < wrong.size(); ++caller) {
    callers.emplace_back([&, caller] {
      for (const double end = seconds_now() + 0.3; seconds_now() < end;) {
        const double latest = available.latest();
        if (!(latest >= 0 && latest < 10000)) ++wrong[caller];
        available.pay(1e-4);
        if (caller == 0) available.forget();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const int count : wrong) CHECK_EQ(count, 0);
}
