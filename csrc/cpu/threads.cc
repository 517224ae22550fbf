#include "cpu/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu/available_cpus.h"
#include "cpu/cgroup.h"
#include "cpu/thread_chooser.h"

namespace swa_fast::cpu {
namespace {

// Below this many bytes per thread, waking threads costs more than they save. Measured: see
// docs/performance.md, "Where threads begin to pay".
constexpr int64_t kMinBytesPerThread = 1024 * 1024;

std::atomic<int> requested_threads{0};

// Of the time that calls take, for looking after free CPUs.
constexpr double kShareForReadings = 0.05;

ThreadChooser chooser;
AvailableCpus available_cpus;

double seconds_now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

#if defined(_OPENMP)
// libgomp's threads do not exist in a forked child, but its records of them do: a parallel region
// of more than one thread there waits for ever.
std::atomic<bool> in_forked_child{false};

const int fork_handler_registered = pthread_atfork(
    nullptr, nullptr, [] { in_forked_child.store(true, std::memory_order_relaxed); });
#endif

#if defined(_OPENMP)
int default_num_threads() {
  static const bool user_chose = std::getenv("OMP_NUM_THREADS") != nullptr;
  static const int quota = cgroup_cpu_limit();
  return threads_within_quota(omp_get_max_threads(), user_chose, quota);
}
#endif

}  // namespace

void set_num_threads(int count) { requested_threads.store(count, std::memory_order_relaxed); }

int get_num_threads() {
#if defined(_OPENMP)
  if (in_forked_child.load(std::memory_order_relaxed) || omp_in_parallel()) return 1;
  const int requested = requested_threads.load(std::memory_order_relaxed);
  const int count = requested > 0 ? requested : default_num_threads();
  return std::min(count, omp_get_thread_limit());
#else
  return 1;
#endif
}

int threads_for(int64_t bytes) {
  if (bytes < 2 * kMinBytesPerThread) return 1;
  const int64_t useful = bytes / kMinBytesPerThread;
  return static_cast<int>(std::min<int64_t>(get_num_threads(), useful));
}

CallThreads::CallThreads(int64_t bytes)
    : bytes_(bytes),
      most_(threads_for(bytes)),
      learns_(most_ > 1 && requested_threads.load(std::memory_order_relaxed) == 0),
      count_(most_) {
  if (!learns_) return;
  const double available = chooser.is_reduced(bytes, most_) ? available_cpus.latest() : 0;
  count_ = chooser.choose(bytes, most_, available);
  start_ = seconds_now();
}

CallThreads::~CallThreads() {
  if (!learns_) return;
  const double seconds = seconds_now() - start_;
  if (chooser.note(bytes_, most_, count_, seconds)) available_cpus.forget();
  available_cpus.pay(seconds * kShareForReadings);
}

int threads_within_quota(int offered, bool user_chose, int quota) {
  const int count = !user_chose && quota > 0 ? std::min(offered, quota) : offered;
  return std::max(1, count);
}

std::string openmp_version() {
#if defined(_OPENMP)
  return "OpenMP " + std::to_string(_OPENMP);
#else
  return "none";
#endif
}

}  // namespace swa_fast::cpu
