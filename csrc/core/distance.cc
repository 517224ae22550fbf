#include "core/distance.h"

#include "cpu/threads.h"

namespace swa_fast {

Distance::Distance(const TensorLists& lists) {
  check_lengths(lists);
  for (size_t i = 0; i < lists.dst.size(); ++i) {
    const Pair pair{lists, i};
    if (pair.dst().device.type == DeviceType::kCuda) {
      throw_value_error(pair.dst_name() + " is on " + device_name(pair.dst().device) +
                            ", and distances are computed in CPU memory",
                        pair.refusal("device"));
    }
    check_pair(Op::kLerp, pair);
    const Work work = find_work(Op::kLerp, pair);
    check_alignment(work, pair);
    launch_.add({static_cast<const char*>(pair.dst().data), work.dst},
                {static_cast<const char*>(pair.src().data), work.src},
                pair.dst().numel * work.per_element);
  }
}

std::vector<cpu::DistanceLaunch::Squares> Distance::run() const {
  const cpu::CallThreads threads(launch_.bytes());
  return launch_.run(threads.count());
}

}  // namespace swa_fast
