// Queues the launches that look for NaN and infinity in the values of a plan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "cuda/backend.h"
#include "cuda/gate.h"
#include "cuda/rows.h"

namespace swa_fast::cuda {

class FiniteCheck {
 public:
  // Adds value number `index` if its elements are floating-point numbers.
  void add(size_t index, const Buffer& value);
  // Takes over the addresses of `values`, which are alike otherwise.
  void move(const std::vector<Buffer>& values);

  // Queues everything on a stream of the device that is current, whose number is for messages.
  void run(const Backend& backend, const Gate& gate, int device, void* stream);

 private:
  struct Item {
    size_t index;  // of the value
    StorageType storage;
    char* data;
    int64_t count;  // numbers
  };
  struct Group {
    StorageType storage;
    std::vector<Rows> tables;
  };
  void fill(const Backend& backend);

  std::vector<Item> items_;
  std::vector<Group> groups_;
  bool stale_ = true;
};

}  // namespace swa_fast::cuda
