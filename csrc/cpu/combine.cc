#include "cpu/combine.h"

#include <algorithm>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu/float_environment.h"
#include "cpu/isa.h"

namespace swa_fast::cpu {
namespace {

// Sums are kept in double for this many numbers at a time: 16 KiB, half of a first-level cache.
constexpr int64_t kSums = 2048;

// Shares begin at multiples of this many numbers: see launch.cc.
constexpr int64_t kShareGranule = 64;

}  // namespace

void CombineLaunch::add(void* output, StorageType storage, int64_t count,
                        const std::vector<Term>& terms) {
  int64_t step = size_of(storage);
  for (const Term& term : terms) step += size_of(term.storage);
  outputs_.push_back(
      {static_cast<char*>(output), storage, count, step, terms_.size(), bytes() + count * step});
  terms_.insert(terms_.end(), terms.begin(), terms.end());
}

void CombineLaunch::run_range(const Output& output, int64_t begin, int64_t end) const {
  const KernelTable& kernels = active_kernels();
  const Term* const terms = &terms_[output.first_term];
  double sums[kSums];
  const int storage = static_cast<int>(output.storage);
  for (int64_t at = begin; at < end; at += kSums) {
    const int64_t count = std::min(kSums, end - at);
    for (size_t k = 0; k < weights_.size();) {
      const auto from = static_cast<int>(terms[k].storage);
      const auto& kernel = k == 0 ? kernels.start_sums[from] : kernels.add_to_sums[from];
      const char* sources[kMostTerms];
      size_t number = 0;
      do {
        sources[number] = terms[k + number].data + at * size_of(terms[k].storage);
        ++number;
      } while (number < kMostTerms && k + number < weights_.size() &&
               terms[k + number].storage == terms[k].storage);
      kernel[number - 1](sums, sources, &weights_[k], count);
      k += number;
    }
    kernels.cast[storage][static_cast<int>(StorageType::kFloat64)](
        output.data + at * size_of(output.storage), sums, count, {});
  }
}

void CombineLaunch::run_share(int64_t begin, int64_t end) const {
  const DefaultFloatEnvironment environment;
  int64_t before = 0;
  for (const Output& output : outputs_) {
    const auto number = [&](int64_t bytes) {
      const int64_t inside = std::clamp(bytes - before, int64_t{0}, output.end - before);
      return inside == output.end - before ? output.count
                                           : inside / output.step / kShareGranule * kShareGranule;
    };
    const int64_t first = number(begin);
    const int64_t last = number(end);
    if (first < last) run_range(output, first, last);
    before = output.end;
  }
}

void CombineLaunch::run([[maybe_unused]] int threads) const noexcept {
  const int64_t total = bytes();
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int granted = omp_get_num_threads();
      const int index = omp_get_thread_num();
      const auto share = [&](int i) {  // the quotient first: the product could overflow
        return total / granted * i + total % granted * i / granted;
      };
      run_share(share(index), share(index + 1));
    }
    return;
  }
#endif
  run_share(0, total);
}

}  // namespace swa_fast::cpu
