// How many threads a call gets, learned from how long the last calls took.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace swa_fast::cpu {

// A call on several threads takes as long as the slowest of them. Where other programs keep the
// CPUs busy, one of the threads waits for its turn, 4 to 8 ms on Linux, when a single thread would
// long be done. So each size of call has a ladder: a rung for 1, 2, 4, ... threads, and at the top
// one for as many as the call may use. Calls begin at the top. The mean time on every rung is
// remembered, and:
//
// - When a rung has become slower than what is known of the one below, calls step down to that;
//   when it is even slower than one thread, to the ground. Single calls step down just to see: to
//   the ground at the start and when a rung has become slower than it was, to the one below once.
// - From a lower rung, calls try the one above, and stay there unless it is slower. A try that
//   fails costs some milliseconds, however small the call is. So the next one waits until ten times
//   that loss has been spent on calls, and failed tries cost less than 10 %. Where CPUs are known
//   to be free, it comes at once.
//
// The number of threads never changes a result. Several callers may use one object at once: nobody
// waits, and of calls that end at the same moment some are not remembered.
class ThreadChooser {
 public:
  // Threads for a call that moves `bytes` bytes and may use `most`. `available_cpus` is the number
  // of CPUs that this process could have used lately, or 0 where that is not known. It is used only
  // if is_reduced().
  int choose(int64_t bytes, int most, double available_cpus);

  // True if the next call of this size gets fewer threads than `most`, unless it is a try.
  bool is_reduced(int64_t bytes, int most) const;

  // Remembers how long a call took for which choose() returned `threads`. Returns true if calls
  // step down because threads had to wait: what was known of free CPUs is outdated.
  bool note(int64_t bytes, int most, int threads, double seconds);

 private:
  static constexpr int kRungs = 13;    // up to 4096 threads, what set_num_threads() takes
  static constexpr int kClasses = 64;  // by the logarithm of the bytes

  struct Rung {
    double mean = 0;  // seconds per byte, of recent calls; 0: unknown
    double best = 0;  // the least mean since the last look
    double loss = 0;  // seconds that the last try of this rung has cost
    int misled = 0;   // tries that failed, one after the other, although CPUs seemed free
  };

  struct SizeClass {
    std::atomic_flag claimed = ATOMIC_FLAG_INIT;  // by the caller that uses what is below
    std::atomic<int> rung{kRungs - 1};            // of the next call, or the top if that is lower
    std::array<Rung, kRungs> rungs;
    bool touched = false;   // the first call was made
    double since_look = 0;  // seconds of calls since the last look
    // Of the stay on the present rung:
    enum { kStay, kTry, kTryOfFreeCpus, kLook } kind = kStay;
    int looked_from = 0;  // the rung that a look returns to
    bool renew = false;   // the rung's mean is old: the next time replaces it
    double gain = 0;      // seconds it has saved over the rung below
    double spent = 0;     // seconds it has lasted, counting calls alone

    Rung& at(int index) { return rungs[static_cast<size_t>(index)]; }
    bool may_try(int next, bool cpus_are_free);
    void step_to(int next);
    void step_up(int next, bool cpus_are_free);
    void step_down(int from);
    void look(int from, int to);
    void remember(int on, double bytes, double seconds);
    bool end_look(int on, double bytes);
    bool is_too_slow(int on);
    bool may_look(int from, int to, double bytes);
  };
  class Claim;

  static int rung_of(int threads);
  static size_t class_of(int64_t bytes);

  std::array<SizeClass, kClasses> classes_;
};

}  // namespace swa_fast::cpu
