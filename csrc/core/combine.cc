#include "core/combine.h"

#include <string>

#include "core/error.h"
#include "core/rules.h"
#include "cpu/threads.h"

namespace swa_fast {
namespace {

void check_number_of_sources(const Pair& pair, size_t number) {
  std::string reason;
  const int most = cuda::most_sources(*cuda::backend(&reason));  // was there a moment ago
  if (number <= static_cast<size_t>(most)) return;
  throw_value_error("sources has " + std::to_string(number) + " lists, and " + pair.dst_name() +
                        " is on " + device_name(pair.dst().device) +
                        ", where a sum takes at most " + std::to_string(most),
                    pair.refusal("sources"));
}

Range range_of(const Buffer& buffer, size_t index, size_t side) {
  const auto begin = reinterpret_cast<uintptr_t>(buffer.data);
  return {begin, begin + static_cast<uintptr_t>(buffer.num_bytes()), static_cast<uint32_t>(index),
          static_cast<int32_t>(side)};
}

}  // namespace

Combine::Combine(const char* outputs_name, const std::vector<Buffer>& outputs,
                 const std::vector<SourceList>& sources, const std::vector<double>& weights)
    : cpu_(weights), cuda_(weights) {
  std::vector<Range> written, read;
  for (const SourceList& source : sources) {
    check_lengths({outputs_name, source.name.c_str(), outputs, source.buffers});
  }
  std::vector<Term> terms(sources.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    Work work = {};
    for (size_t k = 0; k < sources.size(); ++k) {
      const TensorLists lists = {outputs_name, sources[k].name.c_str(), outputs,
                                 sources[k].buffers};
      const Pair pair{lists, i};
      check_pair(Op::kLerp, pair);
      work = find_work(Op::kLerp, pair);
      const bool on_cuda = pair.dst().device.type == DeviceType::kCuda;
      if (k == 0 && on_cuda) check_number_of_sources(pair, sources.size());
      check_alignment(work, pair);
      terms[k] = {static_cast<const char*>(pair.src().data), work.src};
      if (pair.src().numel > 0) read.push_back(range_of(pair.src(), i, k + 1));
    }
    if (outputs[i].numel == 0) continue;
    written.push_back(range_of(outputs[i], i, 0));
    const int64_t count = outputs[i].numel * work.per_element;
    if (outputs[i].device.type == DeviceType::kCuda) {
      cuda_.add(outputs[i].device.index, outputs[i].data, work.dst, count, terms);
    } else {
      cpu_.add(outputs[i].data, work.dst, count, terms);
    }
  }
  check_overlap(std::move(written), read, [&](const Range& range) {
    const bool is_output = range.side == 0;
    const std::string& list = is_output ? outputs_name : sources[range.side - 1].name;
    return item_name(list.c_str(), range.pair);
  });
}

void Combine::run(const cuda::Streams& streams) const {
  cuda_.run(streams);
  const cpu::CallThreads threads(cpu_.bytes());
  cpu_.run(threads.count());
}

}  // namespace swa_fast
