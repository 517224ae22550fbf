// Memory for kernels that are watched: sentinels around a buffer, and pages that must not be read.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

// A buffer at a chosen distance from a cache line's start, with sentinels on both sides.
class Guarded {
 public:
  // Room for `bytes` at up to `max_offset` bytes behind the cache line's start.
  Guarded(size_t bytes, size_t max_offset)
      : storage_(kLine + kGuard + max_offset + bytes + kGuard) {}

  // Puts `bytes` of `data` at `offset` bytes behind the line's start and renews the sentinels.
  void* place(const void* data, size_t bytes, size_t offset) {
    const auto address = reinterpret_cast<uintptr_t>(storage_.data());
    begin_ = (kLine - address % kLine) % kLine + kGuard + offset;
    end_ = begin_ + bytes;
    for (size_t i = begin_ - kGuard; i < begin_; ++i) storage_[i] = sentinel(i);
    for (size_t i = end_; i < end_ + kGuard; ++i) storage_[i] = sentinel(i);
    if (bytes > 0) std::memcpy(&storage_[begin_], data, bytes);
    return storage_.data() + begin_;
  }

  const void* data() const { return storage_.data() + begin_; }

  bool sentinels_intact() const {
    for (size_t i = begin_ - kGuard; i < begin_; ++i) {
      if (storage_[i] != sentinel(i)) return false;
    }
    for (size_t i = end_; i < end_ + kGuard; ++i) {
      if (storage_[i] != sentinel(i)) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kLine = 64;
  static constexpr size_t kGuard = 2 * kLine;  // more than the widest vector

  static uint8_t sentinel(size_t i) { return static_cast<uint8_t>(0xa5 ^ i); }

  std::vector<uint8_t> storage_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

// Whole pages between two that fault on any access: what is put at either end cannot be overread.
class Fenced {
 public:
  explicit Fenced(size_t bytes)
      : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))),
        size_((bytes + page_ - 1) / page_ * page_) {
    void* const memory = mmap(nullptr, size_ + 2 * page_, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    all_ = static_cast<uint8_t*>(memory);
    if (mprotect(all_, page_, PROT_NONE) != 0 ||
        mprotect(all_ + page_ + size_, page_, PROT_NONE) != 0) {
      throw std::bad_alloc();
    }
  }
  ~Fenced() { munmap(all_, size_ + 2 * page_); }
  Fenced(const Fenced&) = delete;
  Fenced& operator=(const Fenced&) = delete;

  void* at_begin(const void* data, size_t bytes) { return put(all_ + page_, data, bytes); }
  void* at_end(const void* data, size_t bytes) {
    return put(all_ + page_ + size_ - bytes, data, bytes);
  }

 private:
  static void* put(uint8_t* place, const void* data, size_t bytes) {
    if (bytes > 0) std::memcpy(place, data, bytes);
    return place;
  }

  size_t page_;
  size_t size_;
  uint8_t* all_ = nullptr;
};
