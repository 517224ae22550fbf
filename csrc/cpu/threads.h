// How many threads a call may use, and how many it gets.
#pragma once

#include <cstdint>
#include <string>

namespace swa_fast::cpu {

// The number of threads for calls to come, in the whole process; 0 returns to the default.
void set_num_threads(int count);

// What a large call from this thread may use. The default is OpenMP's own number (OMP_NUM_THREADS,
// the CPU affinity, torch.set_num_threads where the OpenMP runtime is shared), not more than the
// control group's CPU quota unless OMP_NUM_THREADS is set. 1 in a forked child and inside a
// parallel region.
int get_num_threads();

// The most threads that are of use to a call that moves this many bytes.
int threads_for(int64_t bytes);

// The threads for one call, which is over when this object goes: threads_for(), or by default fewer
// where calls of this size took less time on fewer. A number that was set is not reduced.
class CallThreads {
 public:
  explicit CallThreads(int64_t bytes);
  ~CallThreads();
  CallThreads(const CallThreads&) = delete;
  CallThreads& operator=(const CallThreads&) = delete;

  int count() const { return count_; }

 private:
  const int64_t bytes_;
  const int most_;
  const bool learns_;
  int count_;
  double start_ = 0;  // seconds
};

// The default number of threads where the OpenMP runtime offers `offered`: not more than `quota`,
// as cgroup_cpu_limit() gives it, unless the user chose the number.
int threads_within_quota(int offered, bool user_chose, int quota);

// "OpenMP 201511" or "none".
std::string openmp_version();

}  // namespace swa_fast::cpu
