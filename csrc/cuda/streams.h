// Where the work for each device is queued.
#pragma once

#include <vector>

#include "cuda/backend.h"

namespace swa_fast::cuda {

class Streams {
 public:
  struct Choice {
    int device;
    void* stream;
    bool synchronize;  // wait for the work before the call returns
  };

  void set(const Choice& choice) { choices_.push_back(choice); }

  // The legacy default stream, waited for, where nothing was set.
  Choice of(int device) const {
    for (const Choice& choice : choices_) {
      if (choice.device == device) return choice;
    }
    return {device, kLegacyStream, true};
  }

 private:
  std::vector<Choice> choices_;
};

}  // namespace swa_fast::cuda
