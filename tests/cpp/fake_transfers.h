// Streams, events and copies that live on the CPU. What is queued on a side stream is done when the
// host waits for it, and everything asked for is noted, in words.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "cuda/transfers.h"

namespace fake_transfers {

struct Queued {
  void* to;
  const void* from;
  size_t bytes;
};

struct Journal {
  std::vector<std::string> calls;
  std::vector<Queued> queued;  // copies that are not made yet
  int last_number = 0;         // of a stream or an event
  int made = 0;                // streams and events made and not destroyed
  std::string fails;           // the beginning of the call that fails, with error 700
  bool batch_is_unsupported = false;
  void* capturing = nullptr;  // the stream that is being captured
};

inline Journal journal;

// Side streams and events are called s1, s2, ... and e1, e2, ...; streams of tests by their number.
struct Named {
  std::string name;
};

inline std::string name_of(void* stream) {
  const auto number = reinterpret_cast<uintptr_t>(stream);
  return number < 4096 ? std::to_string(number) : static_cast<Named*>(stream)->name;
}

inline int note(const std::string& call) {
  journal.calls.push_back(call);
  return !journal.fails.empty() && call.rfind(journal.fails, 0) == 0 ? 700 : 0;
}

inline int make(const char* prefix, void** made) {
  if (const int error = note(std::string("make ") + prefix)) return error;
  auto* const named = new Named;
  named->name = prefix + std::to_string(++journal.last_number);
  *made = named;
  ++journal.made;
  return 0;
}

inline void make_copies() {
  for (const Queued& one : journal.queued) std::memcpy(one.to, one.from, one.bytes);
  journal.queued.clear();
}

inline int make_stream(void** stream) { return make("s", stream); }
inline int make_event(void** event) { return make("e", event); }
inline void destroy(void* stream, void* event) {
  for (void* const one : {stream, event}) {
    if (one == nullptr) continue;
    delete static_cast<Named*>(one);
    --journal.made;
  }
}
inline int record(void* event, void* stream) {
  return note("record " + name_of(event) + " on " + name_of(stream));
}
inline int wait_on_device(void* stream, void* event) {
  return note(name_of(stream) + " waits for " + name_of(event));
}
inline int wait_on_host(void* event) {
  make_copies();
  return note("host waits for " + name_of(event));
}
inline int is_capturing(void* stream, bool* capturing) {
  *capturing = journal.capturing != nullptr && stream == journal.capturing;
  return note("is " + name_of(stream) + " capturing");
}
inline int copy(void* to, const void* from, size_t bytes, void* stream) {
  if (const int error = note("copy " + std::to_string(bytes) + " on " + name_of(stream))) {
    return error;
  }
  journal.queued.push_back({to, from, bytes});
  return 0;
}
inline int copy_batch(void** to, void** from, size_t* bytes, size_t count, void* stream) {
  const int error = note("batch of " + std::to_string(count) + " on " + name_of(stream));
  if (journal.batch_is_unsupported) return swa_fast::cuda::kNotSupported;
  if (error != 0) return error;
  for (size_t i = 0; i < count; ++i) journal.queued.push_back({to[i], from[i], bytes[i]});
  return 0;
}

// `batches`: whether the driver has the call for several copies.
inline swa_fast::cuda::Transfers functions(bool batches) {
  return {make_stream,  make_event,     destroy,
          record,       wait_on_device, wait_on_host,
          is_capturing, copy,           batches ? copy_batch : nullptr};
}

}  // namespace fake_transfers
