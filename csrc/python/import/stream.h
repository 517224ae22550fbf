// Chooses the stream for the work on each CUDA device, and exports the tensors that wait for it.
#pragma once

#include <vector>

#include "cuda/launch.h"
#include "python/import/dlpack.h"
#include "python/import/list.h"

namespace swa_fast {

// Who can say on which stream a tensor's contents are made, best first.
struct Owner {
  enum Kind { kTorch, kExchangeApi, kCupy, kNobody } kind;
  const dlpack::ExchangeApi* api;

  // All torch tensors have one owner, whether or not their type has the exchange table.
  bool operator==(const Owner& other) const {
    return kind == other.kind && (kind != kExchangeApi || api == other.api);
  }
};

// The owners of the tensors on one device.
struct DeviceOwners {
  int device;
  std::vector<Owner> owners;
};
using StreamOwners = std::vector<DeviceOwners>;

// The owners of the CUDA tensors in the lists.
StreamOwners find_owners(const std::vector<ImportedList*>& lists);

// The stream for each device, chosen anew: what is current changes from call to call.
cuda::Streams current_streams(const StreamOwners& owners);

// The streams for the lists; and exports what waits for a stream.
//
// The work on a device is queued on one stream: the current one of the framework that owns tensors
// there, torch before others; the legacy default stream where no framework has one. Tensors of
// other frameworks are exported for that stream, by DLPack's rules, and then the call must wait for
// its work: DLPack has no way to tell their frameworks what was queued behind their backs, so they
// could reuse the memory too early. Lists of torch tensors, or of CuPy arrays, are never waited
// for.
//
// CUDA must be usable: check_devices() has been called. Throws Error, or the Python error of an
// export, as ImportedList does.
cuda::Streams choose_streams(const std::vector<ImportedList*>& lists);

}  // namespace swa_fast
