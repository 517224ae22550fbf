#include "cpu/finite_check.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/dtype.h"
#include "core/finite.h"
#include "cpu/threads.h"

namespace swa_fast::cpu {
namespace {

// Numbers that are looked at before anything is decided: few enough that a bad one is told soon,
// and enough to keep a thread busy.
constexpr int64_t kPieceNumbers = 64 * 1024;

struct Piece {
  StorageType storage;
  const char* data;
  int64_t count;
};

// No branch within the loop, so that compilers vectorise it. Unaligned memory is fine.
template <class T>
bool is_piece_finite(const char* data, int64_t count) {
  using Bits = typename Exponent<T>::Bits;
  constexpr Bits kAll = Exponent<T>::kAll;
  Bits bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, data + i * static_cast<int64_t>(sizeof(Bits)), sizeof(Bits));
    bad |= static_cast<Bits>((bits & kAll) == kAll ? 1 : 0);
  }
  return bad == 0;
}

bool is_piece_finite(const Piece& piece) {
  switch (piece.storage) {
#define SWA_FAST_CASE(enumerator, type, name, code, bits) \
  case StorageType::k##enumerator:                        \
    return is_piece_finite<type>(piece.data, piece.count);
    SWA_FAST_FOR_EACH_STORAGE_TYPE(SWA_FAST_CASE)
#undef SWA_FAST_CASE
  }
  return true;
}

}  // namespace

bool all_finite(const std::vector<Buffer>& buffers) {
  std::vector<Piece> pieces;
  int64_t bytes = 0;
  for (const Buffer& buffer : buffers) {
    const FloatingView view = floating_view(buffer.dtype);
    if (!view.floating) continue;
    const int64_t count = buffer.numel * view.per_element;
    const int64_t size = buffer.dtype.itemsize() / view.per_element;
    bytes += count * size;
    for (int64_t done = 0; done < count; done += kPieceNumbers) {
      pieces.push_back({view.storage, static_cast<const char*>(buffer.data) + done * size,
                        std::min(count - done, kPieceNumbers)});
    }
  }
  const CallThreads threads(bytes);
  const auto count = static_cast<int64_t>(pieces.size());
  std::atomic<bool> finite{true};
  const auto look = [&](int64_t index) {
    if (!finite.load(std::memory_order_relaxed)) return;
    if (!is_piece_finite(pieces[static_cast<size_t>(index)])) {
      finite.store(false, std::memory_order_relaxed);
    }
  };
#if defined(_OPENMP)
  if (threads.count() > 1) {
#pragma omp parallel for num_threads(threads.count()) schedule(static)
    for (int64_t index = 0; index < count; ++index) look(index);
    return finite;
  }
#endif
  for (int64_t index = 0; index < count; ++index) look(index);
  return finite;
}

}  // namespace swa_fast::cpu
