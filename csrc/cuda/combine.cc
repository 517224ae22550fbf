#include "cuda/combine.h"

#include <algorithm>
#include <string>

#include "cuda/combine_thread.h"
#include "cuda/device.h"
#include "cuda/rows.h"

namespace swa_fast::cuda {
int most_sources(const Backend& backend) { return most_terms(backend.arguments); }

void CombineLaunch::add(int device, void* output, StorageType storage, int64_t count,
                        const std::vector<Term>& terms) {
  std::vector<StorageType> types;
  for (const Term& term : terms) types.push_back(term.storage);
  auto group = std::find_if(groups_.begin(), groups_.end(), [&](const Group& g) {
    return g.device == device && g.storage == storage && g.types == types;
  });
  if (group == groups_.end()) {
    group = groups_.insert(group, {device, storage, std::move(types), {}, 0});
  }
  group->outputs.push_back(outputs_.size());
  group->rows += (count + kMaxRow - 1) / kMaxRow;
  outputs_.push_back({static_cast<char*>(output), count, terms_.size()});
  terms_.insert(terms_.end(), terms.begin(), terms.end());
}

void CombineLaunch::run_group(const Backend& backend, const Group& group, void* stream) const {
  const Kernel& kernel = backend.kernels->combine[static_cast<int>(group.storage)];
  const int size = size_of(group.storage);
  const auto terms = static_cast<int>(weights_.size());
  const auto header_words = static_cast<size_t>(sum_header_words(terms));
  const size_t bytes = bytes_for(header_words, sum_row_words(terms), group.rows, backend.arguments);
  const auto empty_table = [&] {
    Rows rows(bytes, header_words, sum_row_words(terms));
    for (size_t k = 0; k < weights_.size(); ++k) {
      rows.words()[1 + 2 * k] = bit_cast<uint64_t>(weights_[k]);
      rows.words()[2 + 2 * k] = static_cast<uint64_t>(group.types[k]);
    }
    return rows;
  };
  Rows rows = empty_table();
  const auto launch = [&] {
    const SumHeader header = {rows.count(), terms};
    memcpy(rows.words(), &header, sizeof(header));
    launch_rows(backend, kernel, rows, group.device, 1, stream);
  };
  for (const size_t index : group.outputs) {
    const Output& output = outputs_[index];
    const Term* const sources = &terms_[output.first_term];
    int lead = lead_of(output.data, size, kSumWidth);
    for (size_t k = 0; k < weights_.size(); ++k) {
      const int other = lead_of(sources[k].data, size_of(group.types[k]), kSumWidth);
      if (other != lead) lead = kApart;
    }
    for (int64_t done = 0; done < output.count; done += kMaxRow) {
      const int64_t count = std::min(output.count - done, kMaxRow);
      const int64_t chunks = count_chunks(count, lead, kSumWidth);
      if (!rows.takes(chunks)) {
        launch();
        rows = empty_table();
      }
      uint64_t* const row = rows.add(count, lead, chunks);
      row[1] = address_word(output.data + done * size);
      for (size_t k = 0; k < weights_.size(); ++k) {
        row[2 + k] = address_word(sources[k].data + done * size_of(group.types[k]));
      }
    }
  }
  launch();
}

void CombineLaunch::run(const Streams& streams) const {
  std::vector<int> devices;
  for (const Group& group : groups_) add_device(&devices, group.device);
  queue_and_wait(devices, streams, [&](const Backend& backend) {
    for (const Group& group : groups_) {
      const DeviceGuard guard(backend, group.device);
      run_group(backend, group, streams.of(group.device).stream);
    }
  });
}

}  // namespace swa_fast::cuda
