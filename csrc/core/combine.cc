#include "core/combine.h"

#include <string>

#include "core/error.h"
#include "core/rules.h"
#include "core/weight.h"
#include "cpu/threads.h"

namespace swa_fast {
namespace {

std::vector<Weight> exact_weights(const std::vector<double>& weights) {
  std::vector<Weight> all;
  for (const double weight : weights) all.push_back({0.0f, weight});  // used in double alone
  return all;
}

void require_cpu(const Pair& pair) {
  if (pair.dst().device.type == DeviceType::kCpu) return;
  throw_runtime_error(pair.dst_name() + " is on " + device_name(pair.dst().device) +
                          ": combine_ works in CPU memory; move the tensors there first",
                      pair.refusal("device"));
}

Range range_of(const Buffer& buffer, size_t index, size_t side) {
  const auto begin = reinterpret_cast<uintptr_t>(buffer.data);
  return {begin, begin + static_cast<uintptr_t>(buffer.num_bytes()), static_cast<uint32_t>(index),
          static_cast<int32_t>(side)};
}

}  // namespace

Combine::Combine(const char* outputs_name, const std::vector<Buffer>& outputs,
                 const std::vector<SourceList>& sources, const std::vector<double>& weights)
    : launch_(exact_weights(weights)) {
  std::vector<Range> written, read;
  for (const SourceList& source : sources) {
    check_lengths({outputs_name, source.name.c_str(), outputs, source.buffers});
  }
  std::vector<cpu::Term> terms(sources.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    Work work = {};
    for (size_t k = 0; k < sources.size(); ++k) {
      const TensorLists lists = {outputs_name, sources[k].name.c_str(), outputs,
                                 sources[k].buffers};
      const Pair pair{lists, i};
      check_pair(Op::kLerp, pair);
      work = find_work(Op::kLerp, pair);
      require_cpu(pair);
      check_alignment(work, pair);
      terms[k] = {static_cast<const char*>(pair.src().data), work.src};
      if (pair.src().numel > 0) read.push_back(range_of(pair.src(), i, k + 1));
    }
    if (outputs[i].numel == 0) continue;
    written.push_back(range_of(outputs[i], i, 0));
    launch_.add(outputs[i].data, work.dst, outputs[i].numel * work.per_element, terms);
  }
  check_overlap(std::move(written), read, [&](const Range& range) {
    const bool is_output = range.side == 0;
    const std::string& list = is_output ? outputs_name : sources[range.side - 1].name;
    return item_name(list.c_str(), range.pair);
  });
}

void Combine::run() const {
  const cpu::CallThreads threads(launch_.bytes());
  launch_.run(threads.count());
}

}  // namespace swa_fast
