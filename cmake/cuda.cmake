# Whether and how the CUDA kernels are built: SWA_FAST_CUDA=AUTO|ON|OFF, SWA_FAST_CUDA_ARCHITECTURES.
# Sets SWA_FAST_CUDA_BUILT, and gives swa_fast_add_cuda(target), for csrc/CMakeLists.txt, which adds the
# sources that say so.

if(NOT SWA_FAST_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "SWA_FAST_CUDA must be AUTO, ON or OFF. Received: ${SWA_FAST_CUDA}")
endif()

set(SWA_FAST_CUDA_BUILT FALSE)
set(swa_fast_cuda_reason "it was built with SWA_FAST_CUDA=OFF")
if(NOT SWA_FAST_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  # A value is needed before the language is enabled; the target has its own.
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES OFF)
  endif()
  check_language(CUDA)
  set(swa_fast_cuda_reason "nvcc was not found when it was built")
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    set(swa_fast_cuda_reason "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 11.8")
    # compute capability 9.0, and __grid_constant__
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 11.8)
      set(SWA_FAST_CUDA_BUILT TRUE)
    endif()
  endif()
  if(SWA_FAST_CUDA STREQUAL "ON" AND NOT SWA_FAST_CUDA_BUILT)
    message(FATAL_ERROR "SWA_FAST_CUDA is ON, but ${swa_fast_cuda_reason}: put nvcc on the PATH, or "
                        "set CMAKE_CUDA_COMPILER")
  endif()
endif()

# Machine code for the GPUs in use, and PTX of the newest for those to come.
function(swa_fast_cuda_architectures out)
  set(architectures 75 80 86 89 90)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    list(APPEND architectures 100 120)
  endif()
  list(GET architectures -1 newest)
  list(TRANSFORM architectures APPEND "-real")
  set(${out} ${architectures} ${newest}-virtual PARENT_SCOPE)
endfunction()

function(swa_fast_add_cuda target)
  if(NOT SWA_FAST_CUDA_BUILT)
    target_sources(${target} PRIVATE cuda/not_built.cc)
    set_source_files_properties(cuda/not_built.cc PROPERTIES COMPILE_DEFINITIONS
      "SWA_FAST_CUDA_REASON=\"${swa_fast_cuda_reason}\"")
    message(STATUS "swa_fast: no CUDA (${swa_fast_cuda_reason})")
    return()
  endif()
  set(architectures ${SWA_FAST_CUDA_ARCHITECTURES})
  if(NOT architectures)
    swa_fast_cuda_architectures(architectures)
  endif()
  string(REPLACE "-real" "" names "${architectures}")
  string(REPLACE ";" "," names "${names}")
  message(STATUS "swa_fast: CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${names}")

  target_sources(${target} PRIVATE cuda/kernels.cu cuda/runtime.cu)
  set_source_files_properties(cuda/runtime.cu PROPERTIES COMPILE_DEFINITIONS
    "SWA_FAST_CUDA_ARCHITECTURES=\"${names}\"")
  set_target_properties(${target} PROPERTIES
    CUDA_ARCHITECTURES "${architectures}"
    CUDA_STANDARD 17
    CUDA_STANDARD_REQUIRED ON
    CUDA_RUNTIME_LIBRARY Static
    CUDA_SEPARABLE_COMPILATION OFF
    CUDA_VISIBILITY_PRESET hidden)
  # The arithmetic contract again: no contraction, IEEE division, subnormals kept.
  set(flags -fmad=false -prec-div=true -prec-sqrt=true -ftz=false)
  # Every kernel carries a constant bank as large as its arguments: 2.6 MB per architecture, or 0.5.
  list(APPEND flags -Xfatbin=-compress-all)
  if(SWA_FAST_DEVELOPER)
    list(APPEND flags -Werror=all-warnings)
  endif()
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 11.2)
    list(APPEND flags --threads=0)  # architectures side by side
  endif()
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${flags}>")
endfunction()
