#include "cpu/thread_chooser.h"

#include <algorithm>

namespace swa_fast::cpu {
namespace {

// Share of a new time in the mean: one call that waits for a CPU counts at once, a few percent of
// noise do not.
constexpr double kNewShare = 0.15;

// Two rungs that differ by less are equal, and calls stay on the upper one: a change of the number
// of threads has a price that other users of the OpenMP runtime pay.
constexpr double kMargin = 1.1;

// A mean that has grown to this many times the best is reason to look at one thread.
constexpr double kUnusual = 1.5;

// A try or a look waits until this many times what it may cost has been spent on calls.
constexpr double kPatience = 10;

// Idle time is counted in units of 10 ms, so this much of a CPU may seem to be missing.
constexpr double kAvailableError = 0.25;

// As many threads as a rung has, the top one those that are left.
int threads_on(int rung, int most) { return std::min(1 << rung, most); }

}  // namespace

// Exclusive use of a size class, or false if another caller has it.
class ThreadChooser::Claim {
 public:
  explicit Claim(SizeClass& size)
      : size_(size), granted_(!size.claimed.test_and_set(std::memory_order_acquire)) {}
  ~Claim() {
    if (granted_) size_.claimed.clear(std::memory_order_release);
  }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  explicit operator bool() const { return granted_; }

 private:
  SizeClass& size_;
  const bool granted_;
};

int ThreadChooser::rung_of(int threads) {
  int rung = 0;
  while (rung < kRungs - 1 && 1 << rung < threads) ++rung;
  return rung;
}

size_t ThreadChooser::class_of(int64_t bytes) {
  return static_cast<size_t>(63 - __builtin_clzll(static_cast<unsigned long long>(bytes) | 1));
}

bool ThreadChooser::SizeClass::may_try(int next, bool cpus_are_free) {
  if (spent == 0) return false;  // the first call on the present rung is still to come
  const Rung& above = at(next);
  // 0, 1, 3, 7 times the loss: CPUs that seem free may be out of this process's reach.
  const double doubled = (1 << std::min(above.misled, 8)) - 1;
  return spent >= above.loss * (cpus_are_free ? std::min(doubled, kPatience) : kPatience);
}

void ThreadChooser::SizeClass::step_to(int next) {
  rung.store(next, std::memory_order_relaxed);
  kind = kStay;
  renew = false;
  gain = spent = 0;
}

void ThreadChooser::SizeClass::step_up(int next, bool cpus_are_free) {
  at(next).best = 0;
  step_to(next);
  kind = cpus_are_free ? kTryOfFreeCpus : kTry;
  renew = true;
}

void ThreadChooser::SizeClass::step_down(int from) {
  Rung& left = at(from);
  const bool failed = gain < 0;
  const bool tried = kind != kStay;
  // What has saved time until now is tried again after one call: this one may be an accident.
  left.loss = failed ? -gain : 0;
  left.misled = failed ? left.misled + (kind == kTryOfFreeCpus ? 1 : 0) : 0;
  if ((tried && failed) || left.mean <= at(0).mean) {
    step_to(from - 1);
    return;
  }
  // What was known of all rungs is outdated: calls climb from the ground.
  for (int other = 1; other < kRungs; ++other) {
    if (other != from) at(other).loss = 0;
  }
  step_to(0);
}

void ThreadChooser::SizeClass::look(int from, int to) {
  at(from).best = at(from).mean;
  since_look = 0;
  step_to(to);
  kind = kLook;
  renew = true;
  looked_from = from;
}

void ThreadChooser::SizeClass::remember(int on, double bytes, double seconds) {
  Rung& here = at(on);
  const double time = seconds / bytes;
  here.mean = renew || here.mean == 0 ? time : here.mean + (time - here.mean) * kNewShare;
  here.best = here.best > 0 ? std::min(here.best, here.mean) : here.mean;
  renew = false;
  spent += seconds;
  since_look += seconds;
  if (on > 0 && at(on - 1).mean > 0) gain += at(on - 1).mean * bytes - seconds;
}

// Returns to where the look came from, unless it is better here: then true.
bool ThreadChooser::SizeClass::end_look(int on, double bytes) {
  const double above = at(looked_from).mean;
  kind = kStay;
  if (above <= kMargin * at(on).mean) {
    step_to(looked_from);
    return false;
  }
  at(on + 1).loss = (above - at(on).mean) * bytes;
  return true;
}

bool ThreadChooser::SizeClass::is_too_slow(int on) {
  const auto slower_than = [&](const Rung& rung) {
    return rung.mean > 0 && at(on).mean > kMargin * rung.mean;
  };
  return on > 0 && (slower_than(at(on - 1)) || slower_than(at(0)));
}

bool ThreadChooser::SizeClass::may_look(int from, int to, double bytes) {
  if (to < 0 || to >= from) return false;
  if (at(to).mean == 0) return true;
  const double cost = std::max(at(to).mean - at(from).mean, 0.0) * bytes;
  return at(from).mean > kUnusual * at(from).best && since_look >= kPatience * cost;
}

bool ThreadChooser::is_reduced(int64_t bytes, int most) const {
  return classes_[class_of(bytes)].rung.load(std::memory_order_relaxed) < rung_of(most);
}

int ThreadChooser::choose(int64_t bytes, int most, double available_cpus) {
  SizeClass& size = classes_[class_of(bytes)];
  const int rung = size.rung.load(std::memory_order_relaxed);
  if (rung >= rung_of(most)) return most;
  const Claim claim(size);
  const int next = rung + 1;
  const int wanted = threads_on(next, most);
  const bool cpus_are_free = available_cpus >= wanted - kAvailableError;
  if (!claim || !size.may_try(next, cpus_are_free)) return threads_on(rung, most);
  size.step_up(next, cpus_are_free);
  return wanted;
}

bool ThreadChooser::note(int64_t bytes, int most, int threads, double seconds) {
  SizeClass& size = classes_[class_of(bytes)];
  const Claim claim(size);
  if (!claim) return false;
  // The first call of a size touches new memory and starts threads: it says nothing.
  if (!size.touched) {
    size.touched = true;
    return false;
  }
  const int standing = std::min(size.rung.load(std::memory_order_relaxed), rung_of(most));
  const int rung = rung_of(threads);
  if (rung != standing) return false;  // another caller has taken a step meanwhile
  const auto all_bytes = static_cast<double>(bytes);
  size.remember(rung, all_bytes, seconds);
  if (size.kind == SizeClass::kLook) return size.end_look(rung, all_bytes);
  if (size.is_too_slow(rung)) {
    size.step_down(rung);
    return true;
  }
  if (size.may_look(rung, 0, all_bytes)) {
    size.look(rung, 0);
  } else if (rung > 0 && size.at(rung - 1).mean == 0) {
    size.look(rung, rung - 1);
  }
  return false;
}

}  // namespace swa_fast::cpu
