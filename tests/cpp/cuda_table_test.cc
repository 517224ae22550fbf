// The chunk arithmetic of the CUDA kernels: every element is visited once, by an aligned access.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "check.h"
#include "cuda/rows.h"
#include "cuda/thread.h"

using namespace swa_fast::cuda;

namespace {

// Counts visits in the memory of all tensors. D and S stand for types of their sizes.
template <class D, class S>
struct CountVisits {
  using Dst = D;
  using Src = S;
  static constexpr bool kReadsDst = true;
  static constexpr bool kWritesSrc = true;
};

}  // namespace

namespace swa_fast::cuda {

template <class D, class S>
struct StoredOp<CountVisits<D, S>> {
  StoredOp(const Update&, const int64_t*) {}
  void apply(D& dst, S& src) const {
    dst = static_cast<D>(dst + 1);
    src = static_cast<S>(src + 1);
  }
};

}  // namespace swa_fast::cuda

namespace {

// Blocks of memory, one for the values and one for each list of targets, all zero, with tensors in
// them.
template <class D, class S>
class Tensors {
 public:
  explicit Tensors(int targets) : gaps_(static_cast<size_t>(targets)), sizes_(gaps_.size(), 16) {}

  // `src_gap` and `dst_gap`: elements left free before the tensors; the k-th list of targets leaves
  // `apart` * k more.
  void add(int64_t count, size_t dst_gap, size_t src_gap, size_t apart = 0) {
    One one = {count, src_size_ + src_gap, {}};
    src_size_ = one.src_at + static_cast<size_t>(count);
    for (size_t k = 0; k < sizes_.size(); ++k) {
      one.dst_at.push_back(sizes_[k] + dst_gap + apart * k);
      sizes_[k] = one.dst_at.back() + static_cast<size_t>(count);
    }
    all_.push_back(std::move(one));
  }

  // Fills tables of so many bytes, runs every thread of their grids, and checks that every element
  // of the values and of the targets in `updates` was visited: once, and the values once for each
  // update, because this operation writes them back; and nothing else.
  template <size_t kBytes>
  void check_visits(const std::vector<int>& updates) const {
    Memory<S> src(src_size_);
    std::vector<Memory<D>> dst;
    for (const size_t size : sizes_) dst.emplace_back(size);
    constexpr int kWidth = vector_width(sizeof(D), sizeof(S));
    const auto targets = static_cast<int>(sizes_.size());
    std::vector<Rows> tables;
    for (const One& one : all_) {
      int lead = lead_of(src.data() + one.src_at, sizeof(S), kWidth);
      for (size_t k = 0; k < sizes_.size(); ++k) {
        if (lead_of(dst[k].data() + one.dst_at[k], sizeof(D), kWidth) != lead) lead = kApart;
      }
      const int64_t chunks = count_chunks(one.count, lead, kWidth);
      if (tables.empty() || !tables.back().takes(chunks)) {
        tables.emplace_back(kBytes, sizeof(Header) / 8, row_words(targets));
      }
      uint64_t* const row = tables.back().add(one.count, lead, chunks);
      row[1] = address_word(src.data() + one.src_at);
      src.expect(one.src_at, one.count, static_cast<S>(updates.size()));
      for (size_t k = 0; k < sizes_.size(); ++k) {
        row[2 + k] = address_word(dst[k].data() + one.dst_at[k]);
        const bool due = std::count(updates.begin(), updates.end(), static_cast<int>(k)) > 0;
        if (due) dst[k].expect(one.dst_at[k], one.count, 1);
      }
    }
    CHECK_EQ(tables.size(), (all_.size() + table_rows(kBytes, targets) - 1) /
                                static_cast<size_t>(table_rows(kBytes, targets)));
    for (Rows& rows : tables) run<kBytes>(rows, targets, updates);
    CHECK(src.is_as_expected());
    for (const Memory<D>& memory : dst) CHECK(memory.is_as_expected());
  }

 private:
  struct One {
    int64_t count;
    size_t src_at;  // elements from the start of the memory
    std::vector<size_t> dst_at;
  };
  // 16-byte aligned, as tensors of device memory are.
  template <class T>
  class Memory {
   public:
    explicit Memory(size_t size) : words_(size * sizeof(T) / 8 + 4), expected_(size, T{0}) {}
    T* data() const {
      return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(words_.data()) + 15) / 16 * 16);
    }
    void expect(size_t at, int64_t count, T visits) {
      std::fill_n(expected_.begin() + static_cast<int64_t>(at), count, visits);
    }
    bool is_as_expected() const {
      return std::memcmp(data(), expected_.data(), expected_.size() * sizeof(T)) == 0;
    }

   private:
    std::vector<uint64_t> words_;
    std::vector<T> expected_;
  };

  template <size_t kBytes>
  static void run(Rows& rows, int targets, const std::vector<int>& updates) {
    Header header = {nullptr, rows.count(), targets, 0, 0, {}};
    for (const int target : updates) header.update[header.updates++].target = target;
    std::memcpy(rows.words(), &header, sizeof(header));
    const auto table = std::make_unique<Table<kBytes>>();
    std::memcpy(static_cast<void*>(table.get()), rows.arguments(), sizeof(*table));
    for (uint32_t block = 0; block < rows.chunks(); ++block) {
      for (int thread = 0; thread < kThreads; ++thread) {
        run_thread<CountVisits<D, S>>(*table, block, thread);
      }
    }
  }

  std::vector<size_t> gaps_;
  std::vector<size_t> sizes_;
  size_t src_size_ = 16;
  std::vector<One> all_;
};

// Sizes around every border: of a vector, of a chunk.
template <class D, class S>
void check_sizes_and_offsets() {
  const int width = vector_width(sizeof(D), sizeof(S));
  const int64_t tile = tile_positions(width);
  for (size_t dst_offset = 0; dst_offset < static_cast<size_t>(width) + 1; ++dst_offset) {
    for (const size_t src_offset : {size_t{0}, size_t{1}, dst_offset, size_t(width) - 1}) {
      for (const int64_t size :
           {int64_t{1}, int64_t{2}, int64_t{width - 1}, int64_t{width}, int64_t{width + 1},
            int64_t{2 * width - 1}, tile / 4 - 1, tile - 1, tile, tile + 1, 2 * tile + 3}) {
        if (size == 0) continue;
        Tensors<D, S> one(1);
        one.add(size, dst_offset, src_offset);
        one.template check_visits<kSmallArguments>({0});
        // Several targets, aligned alike, or each in its own way.
        Tensors<D, S> three(3);
        three.add(size, dst_offset, src_offset, 4 * static_cast<size_t>(width));
        three.template check_visits<kSmallArguments>({2, 0});
        if (size > tile + 1) continue;
        Tensors<D, S> apart(4);
        apart.add(size, dst_offset, src_offset, 1);
        apart.template check_visits<kSmallArguments>({1, 2, 3});
      }
    }
  }
}

}  // namespace

TEST(as_many_rows_as_arguments_hold) {
  CHECK_EQ(table_rows(kSmallArguments, 1), 167);
  CHECK_EQ(table_rows(kLargeArguments, 1), 1361);
  CHECK_EQ(table_rows(kSmallArguments, 3), 100);
  CHECK_EQ(table_rows(kLargeArguments, 3), 816);
  CHECK(sizeof(Table<kSmallArguments>) <= kSmallArguments);
  CHECK(sizeof(Table<kLargeArguments>) <= kLargeArguments);
  for (const size_t bytes : {kSmallArguments, kLargeArguments}) {
    for (int targets = 1; targets <= kMaxTargets; ++targets) {
      const size_t row = 8 * static_cast<size_t>(row_words(targets));
      const auto rows = static_cast<size_t>(table_rows(bytes, targets));
      CHECK(sizeof(Header) + rows * row <= bytes && sizeof(Header) + (rows + 1) * row > bytes);
      // That is also how many the host writes.
      Rows written(bytes, sizeof(Header) / 8, row_words(targets));
      for (size_t i = 0; i < rows; ++i) {
        CHECK(written.takes(1));
        written.add(1, 0, 1);
      }
      CHECK(!written.takes(1));
    }
  }
}

TEST(few_rows_go_in_few_bytes) {
  const auto bytes = [](int64_t rows, int targets, size_t most) {
    return bytes_for(sizeof(Header) / 8, row_words(targets), rows, most);
  };
  CHECK_EQ(bytes(1, 1, kLargeArguments), kSmallArguments);
  CHECK_EQ(bytes(167, 1, kLargeArguments), kSmallArguments);
  CHECK_EQ(bytes(168, 1, kLargeArguments), kLargeArguments);
  CHECK_EQ(bytes(101, 3, kLargeArguments), kLargeArguments);
  CHECK_EQ(bytes(5000, 1, kSmallArguments), kSmallArguments);
}

TEST(a_head_keeps_what_it_says) {
  for (const int64_t count : {int64_t{1}, kMaxRow - 1, kMaxRow}) {
    for (const int lead : {0, 7, 15, kApart}) {
      for (const uint32_t chunk : {0u, 1u, 0x7fffffffu}) {
        const RowHead head =
            RowHead::unpack(RowHead{static_cast<int32_t>(count), lead, chunk}.pack());
        CHECK(head.count == count && head.lead == lead && head.first_chunk == chunk);
      }
    }
  }
}

TEST(every_element_is_visited_once_4_and_4_bytes) { check_sizes_and_offsets<uint32_t, uint32_t>(); }
TEST(every_element_is_visited_once_4_and_2_bytes) { check_sizes_and_offsets<uint32_t, uint16_t>(); }
TEST(every_element_is_visited_once_2_and_4_bytes) { check_sizes_and_offsets<uint16_t, uint32_t>(); }
TEST(every_element_is_visited_once_2_and_2_bytes) { check_sizes_and_offsets<uint16_t, uint16_t>(); }
TEST(every_element_is_visited_once_8_and_8_bytes) { check_sizes_and_offsets<uint64_t, uint64_t>(); }
TEST(every_element_is_visited_once_8_and_2_bytes) { check_sizes_and_offsets<uint64_t, uint16_t>(); }
TEST(every_element_is_visited_once_1_and_1_byte) { check_sizes_and_offsets<uint8_t, uint8_t>(); }

TEST(one_to_five_thousand_rows) {
  for (const int count : {1, 2, 3, 166, 167, 168, 1360, 1361, 1362, 5000}) {
    for (const int targets : {1, 2}) {
      Tensors<uint32_t, uint16_t> tensors(targets);
      for (int i = 0; i < count; ++i) {
        // Mostly small, a few of several chunks; starts of every alignment.
        const int64_t size = i % 97 == 5 ? 9000 : 1 + i * 7 % 40;
        tensors.add(size, static_cast<size_t>(i % 3), static_cast<size_t>(i / 3 % 5));
      }
      tensors.check_visits<kSmallArguments>({targets - 1});
      tensors.check_visits<kLargeArguments>({0});
    }
  }
}

// Of the largest row, and where its last chunk is, no position goes beyond 32 bits.
TEST(places_of_the_largest_row) {
  for (const int lead : {0, 3, kApart}) {
    constexpr int kWidth = 4;
    const int64_t chunks = count_chunks(kMaxRow, lead, kWidth);
    const RowHead head = {static_cast<int32_t>(kMaxRow), lead, 0x7ffffff0u - uint32_t(chunks)};
    int64_t held = 0;
    for (const int64_t chunk : {int64_t{0}, chunks / 2, chunks - 1}) {
      for (int thread = 0; thread < kThreads; ++thread) {
        const Place place = place_of<kWidth>(head, head.first_chunk + uint32_t(chunk), thread);
        for (int k = 0; k < kWidth; ++k) held += place.holds(k) ? 1 : 0;
        CHECK(place.first + int64_t{3} * place.step <= kMaxRow + 2 * kThreads * kWidth);
        if (place.whole) CHECK(place.holds(0) && place.holds(kWidth - 1) && place.step == 1);
      }
    }
    // Two chunks are full, but for the first's lead; the last has the rest.
    const int before = lead == kApart ? 0 : lead;
    const int64_t tile = tile_positions(kWidth);
    CHECK_EQ(held, 2 * tile - before + (kMaxRow + before - (chunks - 1) * tile));
  }
}

TEST(a_chunk_finds_its_row) {
  std::vector<uint64_t> words(7 + 5 * 1361);
  for (const int rows : {1, 2, 3, 1000, 1361}) {
    std::vector<int> expected;
    for (int i = 0; i < rows; ++i) {
      const auto first = static_cast<uint32_t>(expected.size());
      words[static_cast<size_t>(7 + 5 * i)] = RowHead{1, 0, first}.pack();
      expected.insert(expected.end(), static_cast<size_t>(1 + i % 5), 7 + 5 * i);
    }
    for (uint32_t chunk = 0; chunk < expected.size(); ++chunk) {
      CHECK_EQ(find_row(words, 7, rows, 5, chunk), expected[chunk]);
    }
  }
  // At the upper end of 31 bits too.
  words[12] = RowHead{1, 0, 0x7ffffff0u}.pack();
  CHECK_EQ(find_row(words, 7, 2, 5, 0x7fffffefu), 7);
  CHECK_EQ(find_row(words, 7, 2, 5, 0x7ffffffeu), 12);
}

// A vector is one access: aligned on both sides wherever a place is whole.
TEST(vectors_are_aligned_on_both_sides) {
  for (const int dst_size : {1, 2, 4, 8}) {
    for (const int src_size : {1, 2, 4, 8}) {
      const int width = vector_width(dst_size, src_size);
      for (uintptr_t d = 0; d < 32; ++d) {
        for (uintptr_t s = 0; s < 32; ++s) {
          const auto dst = 4096 + d * static_cast<uintptr_t>(dst_size);
          const auto src = 8192 + s * static_cast<uintptr_t>(src_size);
          const int lead = lead_of(reinterpret_cast<void*>(dst), dst_size, width);
          const bool alike = lead == lead_of(reinterpret_cast<void*>(src), src_size, width);
          CHECK_EQ(alike, d % static_cast<uintptr_t>(width) == s % static_cast<uintptr_t>(width));
          if (!alike) continue;
          const auto vector = [&](uintptr_t address, int size) {
            return (address - static_cast<uintptr_t>(lead * size)) %
                   static_cast<uintptr_t>(width * size);
          };
          CHECK_EQ(vector(dst, dst_size), 0u);
          CHECK_EQ(vector(src, src_size), 0u);
        }
      }
    }
  }
}
