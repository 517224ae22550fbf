// The Python module swa_fast._cpu_floor: importing it raises ImportError on a CPU that could not
// run swa_fast._core. A module of its own, because the constructors of _core run before any check
// in it could; compiled, like detected.cc, for the architecture's first model, and without a C++
// library.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdio.h>
#include <string.h>

#include "cpu_floor/features.h"

namespace {

using swa_fast::cpu_floor::detected;
using swa_fast::cpu_floor::feature_name;
using swa_fast::cpu_floor::Features;
using swa_fast::cpu_floor::kRequired;

PyObject* names_of(Features features) {
  PyObject* names = PyList_New(0);
  for (int i = 0; names != nullptr && feature_name(i) != nullptr; ++i) {
    if ((features >> i & 1) == 0) continue;
    PyObject* name = PyUnicode_FromString(feature_name(i));
    if (name == nullptr || PyList_Append(names, name) != 0) Py_CLEAR(names);
    Py_XDECREF(name);
  }
  return names;
}

int raise_missing(Features missing) {
  char names[512] = "";
  for (int i = 0; feature_name(i) != nullptr; ++i) {
    if ((missing >> i & 1) == 0) continue;
    const size_t used = strlen(names);
    snprintf(names + used, sizeof(names) - used, "%s%s", used == 0 ? "" : ", ", feature_name(i));
  }
  PyErr_Format(PyExc_ImportError,
               "this build of swa_fast was compiled for a newer CPU: it needs %s, which this CPU "
               "or its operating system does not offer. Install a wheel, or build from source "
               "without flags such as -march=native.",
               names);
  return -1;
}

int execute(PyObject* module) {
  const Features missing = kRequired & ~detected();
  if (missing != 0) return raise_missing(missing);
  PyObject* required = names_of(kRequired);
  if (required == nullptr) return -1;
  const int status = PyModule_AddObjectRef(module, "required", required);
  Py_DECREF(required);
  return status;
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
