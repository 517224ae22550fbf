// Chooses the stream for the work on each CUDA device, and exports the tensors that wait for it.
#pragma once

#include <vector>

#include "cuda/launch.h"
#include "python/import/list.h"

namespace swa_fast {

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
