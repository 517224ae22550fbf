#include "cuda/finite_check.h"

#include <algorithm>
#include <cstring>

#include "cuda/device.h"
#include "cuda/table.h"

namespace swa_fast::cuda {
namespace {

constexpr size_t kHeaderWords = sizeof(Header) / 8;

}  // namespace

void FiniteCheck::add(size_t index, const Buffer& value) {
  const FloatingView view = floating_view(value.dtype);
  if (!view.floating || value.numel == 0) return;
  items_.push_back(
      {index, view.storage, static_cast<char*>(value.data), value.numel * view.per_element});
  stale_ = true;
}

void FiniteCheck::move(const std::vector<Buffer>& values) {
  for (Item& item : items_) item.data = static_cast<char*>(values[item.index].data);
  stale_ = true;
}

void FiniteCheck::fill(const Backend& backend) {
  groups_.clear();
  for (int type = 0; type < kNumStorageTypes; ++type) {
    const Kernel& kernel = backend.kernels->check[type];
    const int width = vector_width(kernel.src_size, kernel.src_size);
    int64_t rows = 0;
    for (const Item& item : items_) {
      if (static_cast<int>(item.storage) == type) rows += (item.count + kMaxRow - 1) / kMaxRow;
    }
    if (rows == 0) continue;
    const size_t bytes = bytes_for(kHeaderWords, row_words(0), rows, backend.arguments);
    groups_.push_back({static_cast<StorageType>(type), {}});
    std::vector<Rows>& tables = groups_.back().tables;
    for (const Item& item : items_) {
      if (static_cast<int>(item.storage) != type) continue;
      const int lead = lead_of(item.data, kernel.src_size, width);
      for (int64_t done = 0; done < item.count; done += kMaxRow) {
        const int64_t count = std::min(item.count - done, kMaxRow);
        const int64_t chunks = count_chunks(count, lead, width);
        if (tables.empty() || !tables.back().takes(chunks)) {
          tables.emplace_back(bytes, kHeaderWords, row_words(0));
        }
        tables.back().add(count, lead, chunks)[1] =
            address_word(item.data + done * kernel.src_size);
      }
    }
  }
  stale_ = false;
}

void FiniteCheck::run(const Backend& backend, const Gate& gate, int device, void* stream) {
  if (stale_) fill(backend);
  for (Group& group : groups_) {
    for (Rows& rows : group.tables) {
      const Header header = {gate.counts(), rows.count(), 0, 0, 0, {}};
      memcpy(rows.words(), &header, sizeof(header));
      const Kernel& kernel = backend.kernels->check[static_cast<int>(group.storage)];
      launch_rows(backend, kernel, rows, device, 1, stream);
    }
  }
}

}  // namespace swa_fast::cuda
