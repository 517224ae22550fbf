// A kernel's arguments being made on the host: a header, and as many rows as there is room for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "cuda/table.h"

namespace swa_fast::cuda {

class Rows {
 public:
  // `bytes` of arguments, of which the header takes `header_words` words of 8 bytes, and each row
  // `row_words`.
  Rows(size_t bytes, size_t header_words, int row_words)
      : words_(new uint64_t[(bytes + 7) / 8]),  // not initialised: only what is written is read
        bytes_(bytes),
        next_(header_words),
        row_words_(static_cast<size_t>(row_words)) {}

  // Whether there is room for a row of so many chunks.
  bool takes(int64_t chunks) const {
    return next_ + row_words_ <= bytes_ / 8 && chunks_ + chunks <= kMaxChunks;
  }

  // Adds a row of `count` elements, and returns its words: the first is written, the others are the
  // caller's to write.
  uint64_t* add(int64_t count, int lead, int64_t chunks) {
    uint64_t* const row = words_.get() + next_;
    row[0] = RowHead{static_cast<int32_t>(count), lead, static_cast<uint32_t>(chunks_)}.pack();
    next_ += row_words_;
    chunks_ += chunks;
    ++count_;
    return row;
  }

  // The arguments, which begin with the header.
  uint64_t* words() { return words_.get(); }
  const void* arguments() const { return words_.get(); }
  size_t bytes() const { return bytes_; }
  int count() const { return count_; }
  uint32_t chunks() const { return static_cast<uint32_t>(chunks_); }

 private:
  std::unique_ptr<uint64_t[]> words_;
  size_t bytes_;
  size_t next_;  // word
  size_t row_words_;
  int64_t chunks_ = 0;
  int count_ = 0;
};

// The bytes of arguments for `rows` rows: few where they do, because a launch copies all of them.
inline size_t bytes_for(size_t header_words, int row_words, int64_t rows, size_t most) {
  const size_t words = header_words + static_cast<size_t>(rows) * static_cast<size_t>(row_words);
  return words <= kSmallArguments / 8 ? kSmallArguments : most;
}

inline uint64_t address_word(const void* address) { return reinterpret_cast<uintptr_t>(address); }

}  // namespace swa_fast::cuda
