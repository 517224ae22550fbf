# The Python modules: swa_fast._core, and swa_fast._cpu_floor, which is imported before it. Included by
# csrc/CMakeLists.txt.

string(JOIN " " SWA_FAST_FLAGS ${swa_fast_flags} ${CMAKE_CXX_FLAGS})  # the user's are in the latter
set(SWA_FAST_COMPILER "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
configure_file(python/build_config.h.in generated/python/build_config.h @ONLY)

find_package(Python COMPONENTS Interpreter Development.Module)
if(NOT Python_Development.Module_FOUND)
  message(FATAL_ERROR
    "swa-fast needs the headers of Python ${Python_VERSION}, and Python.h was not found: install "
    "them (Debian, Ubuntu: apt-get install python3-dev; Fedora: dnf install python3-devel). "
    "${swa_fast_why_from_source}.")
endif()
find_package(pybind11 3 CONFIG REQUIRED)

# pip installs pybind11 into a new folder for every build. Its headers are compiled from a copy, whose
# path and times stay, so that a second build finds nothing changed.
set(pybind11_copy ${CMAKE_CURRENT_BINARY_DIR}/pybind11_headers)
file(GLOB_RECURSE pybind11_files RELATIVE ${pybind11_INCLUDE_DIR} ${pybind11_INCLUDE_DIR}/pybind11/*.h)
foreach(file ${pybind11_files})
  get_filename_component(folder ${pybind11_copy}/${file} DIRECTORY)
  file(MAKE_DIRECTORY ${folder})
  file(COPY_FILE ${pybind11_INCLUDE_DIR}/${file} ${pybind11_copy}/${file} ONLY_IF_DIFFERENT)
endforeach()
set_target_properties(pybind11::pybind11_headers PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES ${pybind11_copy}
  INTERFACE_SYSTEM_INCLUDE_DIRECTORIES ${pybind11_copy})

# A module exports its init function alone, however the compiler's libraries are linked. Where
# libstdc++ is linked statically, its symbols would be exported too, and in a process with another
# libstdc++ (torch loads one) the loader would bind some of ours to the other: the two halves differ.
function(swa_fast_export_init_only target)
  if(APPLE)
    target_link_options(${target} PRIVATE "LINKER:-exported_symbol,_PyInit_${target}")
    return()
  endif()
  set(script ${CMAKE_CURRENT_BINARY_DIR}/generated/${target}.version)
  file(CONFIGURE OUTPUT ${script} CONTENT "{ global: PyInit_${target}; local: *; };\n" @ONLY)
  target_link_options(${target} PRIVATE "SHELL:-Xlinker \"--version-script=${script}\"")
  set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS ${script})
endfunction()

pybind11_add_module(_core MODULE
  python/module.cc
  python/build_info.cc
  python/calls.cc
  python/host_copies.cc
  python/prepared.cc
  python/walk.cc
  python/import/capsule.cc
  python/import/list.cc
  python/import/numpy.cc
  python/import/pybuffer.cc
  python/import/route.cc
  python/import/stream.cc
  python/import/torch.cc)
target_include_directories(_core PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/generated)
target_link_libraries(_core PRIVATE swa_fast_core)
swa_fast_export_init_only(_core)
if(SWA_FAST_BUNDLE_LIBGOMP)
  swa_fast_install_libgomp(_core)
endif()

# Whatever the flags of the rest, this file runs on the architecture's first model: it is what tells
# an older CPU that the rest would not.
set(first_model_flags "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(first_model_flags -march=x86-64 -mno-sse3 -mno-avx -mno-bmi -mno-bmi2 -mno-popcnt -mno-lzcnt
                        -mno-movbe -mno-adx)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64)$")
  set(first_model_flags -march=armv8-a)
endif()
set_source_files_properties(cpu_floor/module.cc PROPERTIES
  COMPILE_OPTIONS "${first_model_flags};-fno-exceptions;-fno-rtti")
Python_add_library(_cpu_floor MODULE WITH_SOABI
  cpu_floor/module.cc
  cpu_floor/required.cc)
target_include_directories(_cpu_floor PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
swa_fast_export_init_only(_cpu_floor)
if(NOT APPLE)
  target_link_options(_cpu_floor PRIVATE -Wl,--as-needed)  # needs the C library alone
endif()

install(TARGETS _core _cpu_floor DESTINATION swa_fast)
