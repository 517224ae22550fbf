// How many threads a call may use.
#pragma once

#include <cstdint>
#include <string>

namespace swa_fast::cpu {

// The number of threads for calls to come, in the whole process; 0 returns to the default.
void set_num_threads(int count);

// What a large call from this thread would use. The default is OpenMP's own number
// (OMP_NUM_THREADS, the CPU affinity, torch.set_num_threads where the OpenMP runtime is shared),
// not more than the control group's CPU quota unless OMP_NUM_THREADS is set. 1 in a forked child
// and inside a parallel region.
int get_num_threads();

// Threads worth using for a call that moves this many bytes.
int threads_for(int64_t bytes);

// The default number of threads where the OpenMP runtime offers `offered`: not more than `quota`,
// as cgroup_cpu_limit() gives it, unless the user chose the number.
int threads_within_quota(int offered, bool user_chose, int quota);

// CPUs' worth of time the control group grants, rounded up; 0 where it sets no limit. `root` is
// where the file system with /proc and /sys is, for tests.
int cgroup_cpu_limit(const std::string& root = "");

// "OpenMP 201511" or "none".
std::string openmp_version();

}  // namespace swa_fast::cpu
