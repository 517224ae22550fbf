#include "cuda/backend.h"

#include <atomic>

#include "cuda/table.h"

namespace swa_fast::cuda {
namespace {

std::atomic<const Backend*> active{nullptr};

}  // namespace

const Backend* backend(std::string* reason) {
  const Backend* known = active.load(std::memory_order_acquire);
  if (known != nullptr) return known;
  known = built_backend(reason);
  if (known != nullptr) active.store(known, std::memory_order_release);
  return known;
}

void set_backend(const Backend* replacement) {
  active.store(replacement, std::memory_order_release);
}

Info info() {
  Info all = {};
  all.reason.clear();
  describe(&all);
  if (const Backend* const usable = backend(&all.reason)) {
    all.reason.clear();
    all.max_pairs = table_rows(usable->arguments, 1);
  }
  return all;
}

}  // namespace swa_fast::cuda
