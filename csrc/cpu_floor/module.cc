// The Python module swa_fast._cpu_floor: importing it raises ImportError on a CPU that could not
// run swa_fast._core. A module of its own, because the constructors of _core run before any check
// in it could; compiled for the architecture's first model, and without a C++ library.
#include <Python.h>

#include "cpu_floor/features.h"

namespace {

struct Feature {
  const char* name;
  bool is_offered;
};

int execute(PyObject*) {
#define SWA_FAST_FEATURE(name, macro, is_offered) {name, is_offered},
  const Feature features[] = {SWA_FAST_FOR_EACH_FEATURE(SWA_FAST_FEATURE){nullptr, true}};
#undef SWA_FAST_FEATURE
  char names[512] = "";
  size_t used = 0;
  for (int i = 0; features[i].name != nullptr; ++i) {
    if (features[i].is_offered || !swa_fast::cpu_floor::kRequired[i]) continue;
    const char* const comma = used == 0 ? "" : ", ";
    used += PyOS_snprintf(names + used, sizeof(names) - used, "%s%s", comma, features[i].name);
  }
  if (used == 0) return 0;
  PyErr_Format(PyExc_ImportError,
               "this build of swa_fast was compiled for a newer CPU: it needs %s, which this CPU "
               "or its operating system does not offer. Install a wheel, or build from source "
               "without flags such as -march=native.",
               names);
  return -1;
}

PyModuleDef_Slot slots[] = {
    {Py_mod_exec, reinterpret_cast<void*>(execute)},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "_cpu_floor",
    "Raises ImportError on a CPU older than this build was compiled for.",
    0,
    nullptr,
    slots,
    nullptr,
    nullptr,
    nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__cpu_floor() { return PyModuleDef_Init(&definition); }
