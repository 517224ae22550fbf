// The chunk arithmetic of the CUDA kernels: every element is visited once, by an aligned access.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "check.h"
#include "cuda/table.h"
#include "cuda/thread.h"

using namespace swa_fast::cuda;

namespace {

// Counts visits in the memory of both sides. D and S stand for types of their sizes.
template <class D, class S>
struct CountVisits {
  using Dst = D;
  using Src = S;
};

}  // namespace

namespace swa_fast::cuda {

template <class D, class S>
struct StoredOp<CountVisits<D, S>> {
  using Dst = D;
  using Src = S;
  static constexpr bool kReadsDst = true;
  static constexpr bool kWritesSrc = true;

  template <class Table>
  explicit StoredOp(const Table&) {}
  void apply(Dst& dst, Src& src) const {
    dst = static_cast<Dst>(dst + 1);
    src = static_cast<Src>(src + 1);
  }
};

}  // namespace swa_fast::cuda

namespace {

// Two blocks of memory with the tensors of a table in them, all zero.
template <class D, class S>
struct Pairs {
  struct One {
    size_t dst_at;  // elements from the start of the memory
    size_t src_at;
    int64_t count;
  };
  std::vector<One> all;
  size_t dst_size = 16, src_size = 16;

  // `dst_gap` and `src_gap`: elements left free before the tensor.
  void add(int64_t count, size_t dst_gap, size_t src_gap) {
    all.push_back({dst_size + dst_gap, src_size + src_gap, count});
    dst_size += dst_gap + static_cast<size_t>(count);
    src_size += src_gap + static_cast<size_t>(count);
  }
};

template <int kCapacity, class D, class S>
void check_visits(const Pairs<D, S>& pairs, int tiles) {
  // 16-byte aligned, as tensors of device memory are.
  std::vector<uint64_t> dst_memory(pairs.dst_size * sizeof(D) / 8 + 4);
  std::vector<uint64_t> src_memory(pairs.src_size * sizeof(S) / 8 + 4);
  auto* const dst =
      reinterpret_cast<D*>((reinterpret_cast<uintptr_t>(dst_memory.data()) + 15) / 16 * 16);
  auto* const src =
      reinterpret_cast<S*>((reinterpret_cast<uintptr_t>(src_memory.data()) + 15) / 16 * 16);
  std::vector<D> dst_expected(pairs.dst_size, D{0});
  std::vector<S> src_expected(pairs.src_size, S{0});

  const auto table = std::make_unique<PairTable<kCapacity>>();
  for (size_t done = 0; done < pairs.all.size();) {
    table->pairs = 0;
    table->chunk = tile_positions(sizeof(D), sizeof(S)) * tiles;
    int64_t chunks = 0;
    for (; done < pairs.all.size() && table->pairs < kCapacity; ++done) {
      const auto& pair = pairs.all[done];
      const int i = table->pairs++;
      table->dst[i] = dst + pair.dst_at;
      table->src[i] = src + pair.src_at;
      table->count[i] = pair.count;
      table->first_chunk[i] = static_cast<uint32_t>(chunks);
      const Walk walk = walk_of(table->dst[i], table->src[i], sizeof(D), sizeof(S));
      chunks += count_chunks(pair.count, walk.lead, table->chunk);
      std::fill_n(dst_expected.begin() + static_cast<int64_t>(pair.dst_at), pair.count, D{1});
      std::fill_n(src_expected.begin() + static_cast<int64_t>(pair.src_at), pair.count, S{1});
    }
    for (uint32_t block = 0; block < chunks; ++block) {
      for (int thread = 0; thread < kThreads; ++thread) {
        run_thread<CountVisits<D, S>>(*table, block, thread);
      }
    }
  }
  CHECK(std::memcmp(dst, dst_expected.data(), pairs.dst_size * sizeof(D)) == 0);
  CHECK(std::memcmp(src, src_expected.data(), pairs.src_size * sizeof(S)) == 0);
}

// Sizes around every border: of a vector, of a block's step, of a chunk.
template <class D, class S>
void check_sizes_and_offsets() {
  const int width = vector_width(sizeof(D), sizeof(S));
  const int64_t tile = tile_positions(sizeof(D), sizeof(S));
  for (const int tiles : {1, 2}) {
    for (int dst_offset = 0; dst_offset < width + 1; ++dst_offset) {
      for (const int src_offset : {0, 1, dst_offset, width - 1}) {
        for (const int64_t size :
             {int64_t{1}, int64_t{2}, int64_t{width - 1}, int64_t{width}, int64_t{width + 1},
              int64_t{2 * width - 1}, tile / 4 - 1, tile - 1, tile, tile + 1, tile * tiles - 1,
              tile * tiles + 1, 2 * tile * tiles + 3}) {
          if (size == 0) continue;
          Pairs<D, S> pairs;
          pairs.add(size, static_cast<size_t>(dst_offset), static_cast<size_t>(src_offset));
          check_visits<kSmallCapacity>(pairs, tiles);
        }
      }
    }
  }
}

}  // namespace

TEST(as_many_pairs_as_arguments_hold) {
  CHECK_EQ(kSmallCapacity, 145);
  CHECK_EQ(kLargeCapacity, 1169);
  CHECK(sizeof(PairTable<kSmallCapacity>) <= kSmallArguments);
  CHECK(sizeof(PairTable<kLargeCapacity>) <= kLargeArguments);
  // One more would not fit.
  CHECK(sizeof(PairTable<kSmallCapacity + 1>) > kSmallArguments);
  CHECK(sizeof(PairTable<kLargeCapacity + 1>) > kLargeArguments);
}

TEST(every_element_is_visited_once_4_and_4_bytes) { check_sizes_and_offsets<uint32_t, uint32_t>(); }
TEST(every_element_is_visited_once_4_and_2_bytes) { check_sizes_and_offsets<uint32_t, uint16_t>(); }
TEST(every_element_is_visited_once_2_and_4_bytes) { check_sizes_and_offsets<uint16_t, uint32_t>(); }
TEST(every_element_is_visited_once_2_and_2_bytes) { check_sizes_and_offsets<uint16_t, uint16_t>(); }
TEST(every_element_is_visited_once_8_and_8_bytes) { check_sizes_and_offsets<uint64_t, uint64_t>(); }
TEST(every_element_is_visited_once_8_and_2_bytes) { check_sizes_and_offsets<uint64_t, uint16_t>(); }
TEST(every_element_is_visited_once_1_and_1_byte) { check_sizes_and_offsets<uint8_t, uint8_t>(); }

TEST(one_to_five_thousand_pairs) {
  for (const int count : {1, 2, 3, 144, 145, 146, 1168, 1169, 1170, 5000}) {
    Pairs<uint32_t, uint16_t> pairs;
    for (int i = 0; i < count; ++i) {
      // Mostly small, a few of several chunks; starts of every alignment.
      const int64_t size = i % 97 == 5 ? 9000 : 1 + i * 7 % 40;
      pairs.add(size, static_cast<size_t>(i % 3), static_cast<size_t>(i / 3 % 5));
    }
    check_visits<kSmallCapacity>(pairs, 1);
    check_visits<kLargeCapacity>(pairs, 1);
  }
}

// Memory of this size cannot be had; the arithmetic can.
TEST(chunks_of_huge_tensors_cover_them) {
  for (const int64_t count : {(int64_t{1} << 31) - 1, int64_t{1} << 31, (int64_t{1} << 33) + 5,
                              (int64_t{1} << 40) - 1, int64_t{1} << 40}) {
    for (const int lead : {0, 3}) {
      const int64_t chunk = tile_positions(4, 4) * 8;
      const int64_t chunks = count_chunks(count, lead, chunk);
      CHECK(chunks <= INT32_MAX);
      CHECK_EQ(chunk_range(count, lead, chunk, 0).begin, 0);
      const auto last = static_cast<uint32_t>(chunks - 1);
      CHECK_EQ(chunk_range(count, lead, chunk, last).end, count + lead);
      for (const uint32_t i : {uint32_t{0}, last / 2, last - 1}) {
        const ChunkRange range = chunk_range(count, lead, chunk, i);
        CHECK_EQ(range.end - range.begin, chunk);
        CHECK_EQ(range.end, chunk_range(count, lead, chunk, i + 1).begin);
      }
      const ChunkRange range = chunk_range(count, lead, chunk, last);
      CHECK(range.begin < range.end && range.end - range.begin <= chunk);
    }
  }
}

TEST(a_chunk_finds_its_pair) {
  const auto table = std::make_unique<PairTable<kLargeCapacity>>();
  for (const int pairs : {1, 2, 3, 1000, kLargeCapacity}) {
    table->pairs = pairs;
    std::vector<int> expected;
    for (int i = 0; i < pairs; ++i) {
      table->first_chunk[i] = static_cast<uint32_t>(expected.size());
      expected.insert(expected.end(), static_cast<size_t>(1 + i % 5), i);
    }
    for (uint32_t chunk = 0; chunk < expected.size(); ++chunk) {
      CHECK_EQ(pair_of_chunk(*table, chunk), expected[chunk]);
    }
  }
  // At the upper end of 32 bits too.
  table->pairs = 2;
  table->first_chunk[1] = 0x7ffffff0u;
  CHECK_EQ(pair_of_chunk(*table, 0x7fffffefu), 0);
  CHECK_EQ(pair_of_chunk(*table, 0x7ffffffeu), 1);
}

TEST(vectors_are_aligned_on_both_sides) {
  for (const int dst_size : {1, 2, 4, 8}) {
    for (const int src_size : {1, 2, 4, 8}) {
      const int width = vector_width(dst_size, src_size);
      for (uintptr_t d = 0; d < 32; ++d) {
        for (uintptr_t s = 0; s < 32; ++s) {
          const auto dst = 4096 + d * dst_size, src = 8192 + s * src_size;
          const Walk walk = walk_of(reinterpret_cast<void*>(dst), reinterpret_cast<void*>(src),
                                    dst_size, src_size);
          if (walk.width == 1) {
            CHECK(width == 1 || d % width != s % width);
            continue;
          }
          CHECK_EQ(walk.width, width);
          CHECK_EQ((dst - static_cast<uintptr_t>(walk.lead * dst_size)) % (width * dst_size), 0u);
          CHECK_EQ((src - static_cast<uintptr_t>(walk.lead * src_size)) % (width * src_size), 0u);
        }
      }
    }
  }
}
