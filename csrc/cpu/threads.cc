#include "cpu/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace swa_fast::cpu {
namespace {

// Below this many bytes per thread, waking threads costs more than they save. Measured: see
// docs/performance.md, "Where threads begin to pay".
constexpr int64_t kMinBytesPerThread = 1024 * 1024;

std::atomic<int> requested_threads{0};

#if defined(_OPENMP)
// libgomp's threads do not exist in a forked child, but its records of them do: a parallel region
// of more than one thread there waits for ever.
std::atomic<bool> in_forked_child{false};

const int fork_handler_registered = pthread_atfork(
    nullptr, nullptr, [] { in_forked_child.store(true, std::memory_order_relaxed); });
#endif

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

int cpus_of_quota(double quota, double period) {
  if (!(quota > 0 && period > 0)) return 0;  // also what is not a number
  const double cpus = std::ceil(quota / period);
  return cpus < INT_MAX ? static_cast<int>(cpus) : 0;
}

void tighten(int* limit, int candidate) {
  if (candidate > 0) *limit = *limit == 0 ? candidate : std::min(*limit, candidate);
}

// A limit holds for everything below the group that sets it: visit the group and its parents.
template <class ReadLimit>
void visit_upwards(std::string group, const ReadLimit& read_limit) {
  for (;;) {
    read_limit(group == "/" ? std::string() : group);
    const size_t slash = group.find_last_of('/');
    if (slash == std::string::npos || group.size() <= 1) return;
    group = slash == 0 ? "/" : group.substr(0, slash);
  }
}

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

int threads_within_quota(int offered, bool user_chose, int quota) {
  const int count = !user_chose && quota > 0 ? std::min(offered, quota) : offered;
  return std::max(1, count);
}

int cgroup_cpu_limit(const std::string& root) {
  int limit = 0;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    // "0::/path" in version 2, "N:cpu,cpuacct:/path" in version 1.
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") {
      visit_upwards(path, [&](const std::string& group) {
        std::istringstream words(read_line(root + "/sys/fs/cgroup" + group + "/cpu.max"));
        std::string quota;
        double period = 0;
        if (words >> quota >> period && quota != "max") {
          tighten(&limit, cpus_of_quota(std::atof(quota.c_str()), period));
        }
      });
    } else if (controllers.find(",cpu,") != std::string::npos) {
      visit_upwards(path, [&](const std::string& group) {
        const std::string folder = root + "/sys/fs/cgroup/cpu" + group;
        const double quota = std::atof(read_line(folder + "/cpu.cfs_quota_us").c_str());
        const double period = std::atof(read_line(folder + "/cpu.cfs_period_us").c_str());
        tighten(&limit, cpus_of_quota(quota, period));
      });
    }
  }
  return limit;
}

std::string openmp_version() {
#if defined(_OPENMP)
  return "OpenMP " + std::to_string(_OPENMP);
#else
  return "none";
#endif
}

}  // namespace swa_fast::cpu
