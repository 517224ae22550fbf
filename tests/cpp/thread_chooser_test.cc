// The choice of the number of threads, on simulated machines: no clock, the same in every run.
#include "cpu/thread_chooser.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

using swa_fast::cpu::ThreadChooser;

namespace {

// Numbers from 0 to 1 that only look random.
class Random {
 public:
  double next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 11) * 0x1p-53;
  }
  double between(double low, double high) { return low + (high - low) * next(); }

 private:
  uint64_t state_ = 1;
};

// Milliseconds that a thread waits for its turn on a busy CPU, as measured: docs/performance.md.
constexpr double kShortWait = 4, kLongWait = 8;

// A machine, what else runs on it, and the call of one size.
struct Machine {
  int cpus = 2;
  double one_thread = 1;     // milliseconds that the call takes on one thread
  double most_useful = 1.8;  // more threads than this are no faster, as for memory's bandwidth
  int busy = 0;              // processes that never rest
  double waits = 1;          // share of the calls in which a thread without a CPU has to wait
  double noise = 0.05;       // times vary by this part
  double hiccups = 0;        // share of the calls that are interrupted whatever their threads
  bool says_free = true;     // whether it can be known that CPUs are free
  double available() const {
    return says_free ? cpus - std::min(busy, cpus) + 0.5 * (busy > 0) : 0;
  }

  double call(int threads, Random& random) const {
    double time = one_thread / std::min<double>(threads, most_useful) + (threads > 1 ? 0.01 : 0);
    time *= random.between(1 - noise, 1 + noise);
    const bool crowded = threads > 1 && threads + busy > cpus;
    if (crowded && random.next() < waits) time += random.between(kShortWait, kLongWait);
    if (random.next() < hiccups) time += random.between(kShortWait, kLongWait);
    return time;
  }
};

// Calls of one process, one after the other.
class Process {
 public:
  explicit Process(int64_t bytes = 10'000'000) : bytes_(bytes) {}

  // Makes `count` calls and returns their mean time.
  double run(const Machine& machine, int count) {
    double total = 0;
    for (int i = 0; i < count; ++i) {
      const double available = known_ > 0 ? 0 : machine.available();
      threads_ = chooser_.choose(bytes_, machine.cpus, available);
      const double time = machine.call(threads_, random_);
      // What was known of free CPUs is known again some calls later.
      known_ = chooser_.note(bytes_, machine.cpus, threads_, time * 1e-3) ? 3 : known_ - 1;
      total += time;
    }
    return total / count;
  }

  // Makes calls until one has `threads` threads; returns how many had another number before.
  int calls_until(int threads, const Machine& machine, int limit = 1000) {
    for (int count = 0; count < limit; ++count) {
      run(machine, 1);
      if (threads_ == threads) return count;
    }
    return limit;
  }

  int threads() const { return threads_; }

 private:
  ThreadChooser chooser_;
  Random random_;
  int64_t bytes_;
  int threads_ = 0;
  int known_ = 0;
};

double fixed(const Machine& machine, int threads) {
  Random random;
  double total = 0;
  for (int i = 0; i < 20000; ++i) total += machine.call(threads, random);
  return total / 20000;
}

// The mean time with the best fixed number of threads.
double best(const Machine& machine) {
  double least = fixed(machine, machine.cpus);
  for (int threads = 1; threads < machine.cpus; threads *= 2) {
    least = std::min(least, fixed(machine, threads));
  }
  return least;
}

std::string text(const Machine& m, double ratio) {
  return std::to_string(m.cpus) + " CPUs, " + std::to_string(m.busy) + " busy, " +
         std::to_string(m.one_thread) + " ms, waits " + std::to_string(m.waits) + ": " +
         std::to_string(ratio);
}

const double kTimes[] = {0.2, 0.6, 1.2, 2.5, 8, 20, 100};

}  // namespace

TEST(calls_begin_with_all_threads) {
  ThreadChooser chooser;
  CHECK_EQ(chooser.choose(1 << 30, 7, 0), 7);
  CHECK_EQ(chooser.choose(1 << 22, 4, 0), 4);
  CHECK_EQ(chooser.choose(1 << 22, 1, 0), 1);
  CHECK(!chooser.is_reduced(1 << 22, 4));
}

TEST(an_idle_machine_costs_a_look_at_one_thread_and_one_at_half_of_them) {
  for (const int cpus : {2, 3, 8, 64}) {
    Machine machine;
    machine.cpus = cpus;
    machine.most_useful = 0.9 * cpus;
    machine.one_thread = 1.0 * cpus;
    Process process;
    int fewer = 0;
    for (int call = 0; call < 1000; ++call) {
      process.run(machine, 1);
      fewer += process.threads() < cpus ? 1 : 0;
    }
    CHECK_EQ(fewer, cpus == 2 ? 1 : 2);
  }
}

// From the first call on, which is where the two calls before anything is known weigh most.
TEST(never_more_than_1_3_times_the_best_on_two_cpus) {
  for (const double time : kTimes) {
    for (const int busy : {0, 1, 2}) {
      for (const double waits : {1.0, 0.5}) {
        for (const bool says_free : {true, false}) {
          Machine machine;
          machine.one_thread = time;
          machine.busy = busy;
          machine.waits = waits;
          machine.says_free = says_free;
          const double ratio = Process().run(machine, 2000) / best(machine);
          CHECK_WITH(ratio <= 1.3, text(machine, ratio));
        }
      }
    }
  }
}

TEST(never_more_than_1_3_times_the_best_on_many_cpus) {
  for (const int cpus : {8, 64}) {
    for (const double time : {1.2, 2.5, 8.0, 20.0, 100.0}) {
      for (const int busy : {0, 1, cpus / 4, cpus}) {
        Machine machine;
        machine.cpus = cpus;
        machine.one_thread = time;
        machine.most_useful = std::min(cpus, 10);
        machine.busy = busy;
        const double ratio = Process().run(machine, 4000) / best(machine);
        CHECK_WITH(ratio <= 1.3, text(machine, ratio));
      }
    }
  }
}

TEST(noise_and_hiccups_do_not_drive_calls_off_the_best) {
  for (const double time : {0.6, 2.5, 20.0}) {
    for (const int busy : {0, 2}) {
      Machine machine;
      machine.one_thread = time;
      machine.busy = busy;
      machine.noise = 0.3;
      machine.hiccups = 0.005;
      const double ratio = Process().run(machine, 4000) / best(machine);
      CHECK_WITH(ratio <= 1.3, text(machine, ratio));
    }
  }
}

TEST(it_adapts_within_a_few_calls_both_ways) {
  for (const double time : {0.2, 0.6, 2.5}) {
    Machine idle, busy;
    idle.one_thread = busy.one_thread = time;
    busy.busy = 2;
    Process process;
    process.run(idle, 300);
    for (int turn = 0; turn < 5; ++turn) {
      // One slow call shows it; another one is the try that follows a stay that was good.
      const int down = process.calls_until(1, busy);
      CHECK_WITH(down <= 2, std::to_string(down));
      process.run(busy, 300);
      // Free CPUs are known three calls after the last step down.
      process.calls_until(1, busy);
      const int up = process.calls_until(2, idle);
      CHECK_WITH(up <= 5, std::to_string(up));
      const double after = process.run(idle, 300);
      CHECK_WITH(after <= 1.1 * fixed(idle, 2), text(idle, after));
    }
  }
}

TEST(many_threads_leap_to_the_ground_and_climb_one_rung_a_call) {
  Machine idle, busy;
  idle.cpus = busy.cpus = busy.busy = 64;
  idle.most_useful = busy.most_useful = 40;
  idle.one_thread = busy.one_thread = 3;
  Process process;
  process.run(idle, 300);
  const int down = process.calls_until(1, busy);
  CHECK_WITH(down <= 2, std::to_string(down));
  process.run(busy, 300);
  process.calls_until(1, busy);
  const int up = process.calls_until(64, idle);
  CHECK_WITH(up <= 10, std::to_string(up));
}

TEST(what_a_try_lost_long_ago_does_not_delay_a_climb_from_the_ground) {
  Machine half, busy, idle;
  for (Machine* machine : {&half, &busy, &idle}) {
    machine->cpus = 8;
    machine->most_useful = 7;
    machine->one_thread = 3;
    machine->says_free = false;
  }
  half.busy = 4;
  busy.busy = 8;
  Process process;
  process.run(half, 1000);
  process.run(busy, 300);
  process.calls_until(4, idle);
  CHECK(process.calls_until(8, idle) <= 3);
}

// Elsewhere than on Linux, or where /proc is hidden. The time that calls take is what counts: ten
// times the loss of one try.
TEST(without_knowing_free_cpus_it_goes_up_after_ten_losses) {
  for (const double time : {0.2, 0.6, 2.5}) {
    Machine idle, busy;
    idle.one_thread = busy.one_thread = time;
    idle.says_free = busy.says_free = false;
    busy.busy = 2;
    Process process;
    process.run(idle, 300);
    process.run(busy, 300);
    process.calls_until(1, busy);
    const int up = process.calls_until(2, idle);
    CHECK_WITH(up * time * 0.95 <= 10 * kLongWait + time, std::to_string(up));
  }
}

// CPUs that lie idle but that this process may not use, as in a container with some of many.
TEST(free_cpus_out_of_reach_mislead_only_for_a_while) {
  Machine machine;
  machine.one_thread = 0.6;
  machine.busy = 2;
  ThreadChooser chooser;
  Random random;
  double total = 0;
  constexpr int kCalls = 4000;
  for (int i = 0; i < kCalls; ++i) {
    const int threads = chooser.choose(10'000'000, 2, 100);
    const double time = machine.call(threads, random);
    chooser.note(10'000'000, 2, threads, time * 1e-3);
    total += time;
  }
  const double ratio = total / kCalls / fixed(machine, 1);
  CHECK_WITH(ratio <= 1.3, text(machine, ratio));
}

// A call that is long against a turn on the CPU gains from a second share of them.
TEST(large_calls_keep_their_threads_on_a_busy_machine) {
  Machine machine;
  machine.one_thread = 100;
  machine.busy = 2;
  Process process;
  CHECK(process.run(machine, 200) <= 1.05 * fixed(machine, 2));
}

// What was seen of one rung long ago, when memory was cold, is looked at again.
TEST(an_outdated_time_below_does_not_hold_calls_on_a_slow_rung) {
  Machine cold, idle, busy;
  cold.one_thread = 40;
  idle.one_thread = busy.one_thread = 0.6;
  busy.busy = 2;
  Process process;
  process.run(cold, 20);
  process.run(idle, 100);
  process.calls_until(1, busy, 40);
  CHECK(process.run(busy, 1000) <= 1.3 * fixed(busy, 1));
}

TEST(sizes_are_learned_apart) {
  ThreadChooser chooser;
  const auto make_slow = [&](int64_t bytes) {
    for (int i = 0; i < 5; ++i) {
      const int threads = chooser.choose(bytes, 2, 0);
      chooser.note(bytes, 2, threads, threads == 2 ? 8e-3 : 1e-3);
    }
  };
  make_slow(3 << 20);
  CHECK_EQ(chooser.choose(3 << 20, 2, 0), 1);
  CHECK_EQ(chooser.choose(40 << 20, 2, 0), 2);
  CHECK(chooser.is_reduced(3 << 20, 2));
  CHECK(!chooser.is_reduced(40 << 20, 2));
}

TEST(the_most_may_change_at_any_call) {
  ThreadChooser chooser;
  Random random;
  for (int i = 0; i < 100000; ++i) {
    const auto bytes = static_cast<int64_t>(std::exp2(random.between(0, 62.9)));
    const int most = 1 + static_cast<int>(random.between(0, 1) * random.between(0, 6000));
    const int threads = chooser.choose(bytes, most, random.between(0, 200));
    CHECK_WITH(threads >= 1 && threads <= most, std::to_string(threads));
    if (i % 3 != 0) chooser.note(bytes, most, threads, random.next() < 0.1 ? 0 : random.next());
  }
  // The smallest and the largest numbers there are.
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, INT64_MAX}) {
    for (int i = 0; i < 10; ++i) {
      const int threads = chooser.choose(bytes, 4, 4);
      CHECK(threads >= 1 && threads <= 4);
      chooser.note(bytes, 4, threads, 1e-3 * i);
    }
  }
}

TEST(fewer_allowed_for_a_while_is_forgotten) {
  Machine idle;
  Process process;
  process.run(idle, 50);
  Machine one = idle;
  one.cpus = 1;
  process.run(one, 50);
  CHECK_EQ(process.threads(), 1);
  CHECK(process.calls_until(2, idle) <= 1);
}

// Run under a thread sanitizer to see more than that nothing breaks.
TEST(many_callers_at_once) {
  ThreadChooser chooser;
  std::atomic<int> wrong{0}, calls{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      Random random;
      for (int i = 0; i < 20000; ++i) {
        const int most = 1 + (i + caller) % 9;
        const int threads = chooser.choose(1 << 24, most, i % 10);
        if (threads < 1 || threads > most) ++wrong;
        chooser.note(1 << 24, most, threads, random.next());
        ++calls;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK_EQ(calls.load(), 80000);
  CHECK_EQ(wrong.load(), 0);
}
