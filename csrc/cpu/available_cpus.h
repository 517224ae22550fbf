// How many CPUs this process could have used lately.
#pragma once

#include <atomic>
#include <string>

namespace swa_fast::cpu {

// Readings of three clocks, in seconds.
struct CpuTimes {
  double wall;
  double idle;  // of all CPUs together, in steps of 0.01
  double own;   // that this process, with all its threads, has spent on CPUs
};

// Reads the clocks. False where the system does not say how long its CPUs were idle, which Linux
// alone does. `root` is where the file system with /proc is, for tests. Allocates nothing if that
// is short.
bool read_cpu_times(CpuTimes* times, const std::string& root = "");

// CPUs that this process had or could have had between two readings: those that it used itself and
// those that lay idle. CPUs that it may not run on count too.
double cpus_available(const CpuTimes& from, const CpuTimes& to);

// The latest such number, renewed from time to time. Callers may use it at once: nobody waits.
//
// A reading takes 5 us, but where the CPUs are busy it is also an occasion for the system to give
// this one to somebody else, for milliseconds. So readings have to be paid for.
class AvailableCpus {
 public:
  // The mean over the last 0.1 s or more; 0 while that is not known.
  double latest();

  // Says that what was before now does not count any more.
  void forget();

  // Allows readings to take so many seconds. The next one waits until as much as one takes is
  // there.
  void pay(double seconds);

 private:
  void read();

  std::atomic_flag claimed_ = ATOMIC_FLAG_INIT;  // by the caller that renews it
  std::atomic<double> latest_{0};
  std::atomic<double> paid_{0};  // since the last reading
  std::atomic<bool> forgotten_{true};
  CpuTimes start_{};
  bool known_ = false;  // whether `start_` could be read
  double price_ = 0;    // mean seconds of recent readings
};

}  // namespace swa_fast::cpu
