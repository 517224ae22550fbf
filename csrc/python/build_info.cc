#include "python/build_info.h"

#include <string>

#include "core/dtype.h"
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "cuda/backend.h"
#include "python/build_config.h"

namespace py = pybind11;

namespace swa_fast {
namespace {

py::dict cuda_info() {
  const cuda::Info info = cuda::info();
  py::list architectures;
  for (const std::string& architecture : info.architectures) architectures.append(architecture);
  py::list devices;
  for (const cuda::DeviceInfo& device : info.devices) {
    py::dict one;
    one["name"] = device.name;
    one["capability"] = device.capability;
    one["memory"] = device.memory;
    devices.append(one);
  }
  py::dict all;
  all["built"] = info.built;
  all["available"] = info.reason.empty();
  all["reason"] = info.reason;
  all["toolkit"] = info.toolkit;
  all["architectures"] = architectures;
  all["driver"] = info.driver;
  all["devices"] = devices;
  all["max_pairs_per_launch"] = info.max_pairs;
  return all;
}

}  // namespace

py::dict build_info() {
  py::list isas;
  for (const std::string& isa : cpu::runnable_isas()) isas.append(isa);
  py::list dtypes;
#define SWA_FAST_APPEND(enumerator, type, name, code, bits) dtypes.append(name);
  SWA_FAST_FOR_EACH_STORAGE_TYPE(SWA_FAST_APPEND)
#undef SWA_FAST_APPEND
  py::dict info;
  info["version"] = SWA_FAST_VERSION;
  info["commit"] = SWA_FAST_COMMIT;
  info["compiler"] = SWA_FAST_COMPILER;
  info["flags"] = SWA_FAST_FLAGS;
  info["isa"] = cpu::active_kernels().isa;
  info["isas"] = isas;
  info["openmp"] = cpu::openmp_version();
  info["num_threads"] = cpu::get_num_threads();
  info["storage_dtypes"] = dtypes;
  info["cuda"] = cuda_info();
  return info;
}

}  // namespace swa_fast
