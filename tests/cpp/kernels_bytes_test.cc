// The kernels that move bytes: every count and alignment of bytes, between sentinels.
#include <random>

#include "check.h"
#include "guarded.h"
#include "kernel_cases.h"

namespace {

constexpr size_t kOffsets = 17;

struct Bytes {
  std::vector<uint8_t> a;
  std::vector<uint8_t> b;
};

Bytes random_bytes(size_t size) {
  std::mt19937 random(4);
  Bytes bytes{std::vector<uint8_t>(size), std::vector<uint8_t>(size)};
  for (size_t i = 0; i < size; ++i) {
    bytes.a[i] = static_cast<uint8_t>(random());
    bytes.b[i] = static_cast<uint8_t>(~bytes.a[i]);  // no byte is what it was by chance
  }
  return bytes;
}

template <class CheckResult>
void run_grid(swa_fast::cpu::RangeKernel kernel, const CheckResult& check_result) {
  const Bytes bytes = random_bytes(1100);
  Guarded dst(1100, kOffsets), src(1100, kOffsets);
  for (const int64_t count : grid_of_counts(260)) {
    for (size_t offset = 0; offset < kOffsets; ++offset) {
      const size_t size = static_cast<size_t>(count);
      void* const to = dst.place(bytes.a.data(), size, offset);
      void* const from = src.place(bytes.b.data(), size, (5 * offset + size) % kOffsets);
      kernel(to, from, count, weights()[0]);
      check_result(bytes, to, from, size);
      CHECK(dst.sentinels_intact());
      CHECK(src.sentinels_intact());
    }
  }
}

bool same(const void* data, const std::vector<uint8_t>& expected, size_t size) {
  return size == 0 || std::memcmp(data, expected.data(), size) == 0;
}

}  // namespace

TEST(copy_bytes_copies) {
  for_each_isa([](const swa_fast::cpu::KernelTable& table) {
    run_grid(table.copy_bytes,
             [&](const Bytes& bytes, const void* dst, const void* src, size_t size) {
               CHECK_WITH(same(dst, bytes.b, size), table.isa + std::to_string(size));
               CHECK_WITH(same(src, bytes.b, size), table.isa + std::to_string(size));
             });
  });
}

TEST(swap_bytes_exchanges) {
  for_each_isa([](const swa_fast::cpu::KernelTable& table) {
    run_grid(table.swap_bytes,
             [&](const Bytes& bytes, const void* dst, const void* src, size_t size) {
               CHECK_WITH(same(dst, bytes.b, size), table.isa + std::to_string(size));
               CHECK_WITH(same(src, bytes.a, size), table.isa + std::to_string(size));
             });
  });
}

TEST(a_buffer_with_itself_stays) {
  const Bytes bytes = random_bytes(1100);
  for_each_isa([&](const swa_fast::cpu::KernelTable& table) {
    for (const auto kernel : {table.copy_bytes, table.swap_bytes}) {
      for (const size_t size : {0, 1, 63, 64, 65, 1100}) {
        Guarded memory(size, 3);
        void* const data = memory.place(bytes.a.data(), size, 3);
        kernel(data, data, static_cast<int64_t>(size), weights()[0]);
        CHECK(same(data, bytes.a, size));
        CHECK(memory.sentinels_intact());
      }
    }
  });
}
