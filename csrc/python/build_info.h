// swa_fast.build_info(): how this module was built and what it runs on.
#pragma once

#include <pybind11/pybind11.h>

namespace swa_fast {

pybind11::dict build_info();

}  // namespace swa_fast
