#include "cuda/side_copies.h"

#include <unistd.h>

#include <algorithm>
#include <string>

#include "cuda/device.h"

namespace swa_fast::cuda {
namespace {

const Backend& usable_backend() {
  std::string reason;
  const Backend* const usable = backend(&reason);
  if (usable == nullptr) throw_runtime_error(reason);
  return *usable;
}

void require(const Backend& backend, int error, const char* operation, int device) {
  if (error == 0) return;
  fail(backend, error, std::string(operation) + " on cuda:" + std::to_string(device));
}

}  // namespace

SideCopies::~SideCopies() {
  if (sides_.empty() || process_ != getpid()) return;
  std::string reason;
  const Backend* const usable = backend(&reason);
  if (usable == nullptr) return;
  abandon(*usable);
  for (const Side& side : sides_) {
    if (usable->enter(side.device) != 0) continue;
    usable->transfers->destroy(side.stream, side.event);
    usable->leave();
  }
}

SideCopies::Side& SideCopies::side_of(const Backend& backend, int device) {
  if (process_ != getpid()) sides_.clear();
  process_ = getpid();
  for (Side& side : sides_) {
    if (side.device == device) return side;
  }
  const DeviceGuard guard(backend, device);
  Side side = {device, nullptr, nullptr, false};
  require(backend, backend.transfers->make_stream(&side.stream), "making a stream", device);
  const int error = backend.transfers->make_event(&side.event);
  if (error != 0) backend.transfers->destroy(side.stream, nullptr);
  require(backend, error, "making an event", device);
  sides_.push_back(side);
  return sides_.back();
}

void SideCopies::start(const std::vector<Copy>& copies, const Streams& streams) {
  for (Side& side : sides_) side.busy = false;
  if (copies.empty()) return;
  const Backend& usable = usable_backend();
  try {
    queue(usable, copies, streams);
  } catch (const Error&) {
    abandon(usable);
    throw;
  }
}

void SideCopies::queue(const Backend& backend, const std::vector<Copy>& copies,
                       const Streams& streams) {
  std::vector<int> devices;
  for (const Copy& copy : copies) add_device(&devices, copy.device);
  for (const int device : devices) {
    const DeviceGuard guard(backend, device);
    bool capturing = false;
    const int error = backend.transfers->is_capturing(streams.of(device).stream, &capturing);
    require(backend, error, "asking whether a stream is captured", device);
    if (!capturing) continue;
    throw_runtime_error(
        "averages in host memory cannot be updated inside a CUDA graph: call update() after the "
        "replay");
  }
  for (const int device : devices) {
    Side& side = side_of(backend, device);
    const DeviceGuard guard(backend, device);
    const Transfers& transfers = *backend.transfers;
    // The event stands for the work so far, and then for the copies.
    const auto record = [&](void* stream) {
      require(backend, transfers.record(side.event, stream), "recording an event", device);
    };
    record(streams.of(device).stream);
    require(backend, transfers.wait_on_device(side.stream, side.event),
            "letting a stream wait for an event", device);
    side.busy = true;
    queue_copies(backend, copies, side);
    record(side.stream);
  }
}

void SideCopies::queue_copies(const Backend& backend, const std::vector<Copy>& copies,
                              const Side& side) {
  const Transfers& transfers = *backend.transfers;
  if (in_batches_ && transfers.copy_batch != nullptr) {
    std::vector<void*> to, from;
    std::vector<size_t> bytes;
    for (const Copy& copy : copies) {
      if (copy.device != side.device) continue;
      to.push_back(copy.to);
      from.push_back(copy.from);
      bytes.push_back(copy.bytes);
    }
    const int error =
        transfers.copy_batch(to.data(), from.data(), bytes.data(), to.size(), side.stream);
    if (error != kNotSupported) {
      return require(backend, error, "copying to host memory in a batch", side.device);
    }
    in_batches_ = false;
  }
  for (const Copy& copy : copies) {
    if (copy.device != side.device) continue;
    const int error = transfers.copy(copy.to, copy.from, copy.bytes, side.stream);
    require(backend, error, "copying to host memory", side.device);
  }
}

// Waits for all that is under way, whatever fails.
void SideCopies::abandon(const Backend& backend) {
  for (Side& side : sides_) {
    if (!side.busy || backend.enter(side.device) != 0) continue;
    backend.synchronize(side.stream);
    backend.leave();
    side.busy = false;
  }
}

void SideCopies::hold_back(const Streams& streams) const {
  if (process_ != getpid()) return;
  for (const Side& side : sides_) {
    if (!side.busy) continue;
    const Backend& usable = usable_backend();
    const DeviceGuard guard(usable, side.device);
    require(usable, usable.transfers->wait_on_device(streams.of(side.device).stream, side.event),
            "letting a stream wait for the copies", side.device);
  }
}

void SideCopies::wait() const {
  if (process_ != getpid()) return;
  for (const Side& side : sides_) {
    if (!side.busy) continue;
    const Backend& usable = usable_backend();
    const DeviceGuard guard(usable, side.device);
    require(usable, usable.transfers->wait_on_host(side.event), "waiting for copies", side.device);
  }
}

}  // namespace swa_fast::cuda
