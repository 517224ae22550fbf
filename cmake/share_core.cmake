# The kernels, above all those for CUDA, take minutes to compile and know no Python: one build folder
# can make swa_fast_core, and the wheels of several Pythons link it, with SWA_FAST_CORE_DIR.

# Both builds must agree on these.
set(swa_fast_core_choices SWA_FAST_COMMIT SWA_FAST_CUDA_BUILT OpenMP_CXX_FOUND
                          CMAKE_CXX_COMPILER_ID CMAKE_CXX_COMPILER_VERSION
                          CMAKE_CXX_FLAGS)

function(swa_fast_export_core)
  export(TARGETS swa_fast_core FILE ${CMAKE_BINARY_DIR}/swa_fast_core.cmake)
  set(lines "")
  foreach(choice ${swa_fast_core_choices})
    string(APPEND lines "set(built_${choice} [==[${${choice}}]==])\n")
  endforeach()
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/swa_fast_core_choices.cmake CONTENT "${lines}")
endfunction()

macro(swa_fast_import_core)
  if(NOT EXISTS "${SWA_FAST_CORE_DIR}/swa_fast_core_choices.cmake")
    message(FATAL_ERROR "SWA_FAST_CORE_DIR must be a build folder of swa_fast with the target "
                        "swa_fast_core built in it. Received: ${SWA_FAST_CORE_DIR}")
  endif()
  include("${SWA_FAST_CORE_DIR}/swa_fast_core_choices.cmake")
  foreach(choice ${swa_fast_core_choices})
    if(NOT "${${choice}}" STREQUAL "${built_${choice}}")
      message(FATAL_ERROR "SWA_FAST_CORE_DIR must agree with this build: ${choice} is "
                          "'${built_${choice}}' in ${SWA_FAST_CORE_DIR}, and '${${choice}}' here")
    endif()
  endforeach()
  include("${SWA_FAST_CORE_DIR}/swa_fast_core.cmake")
  # The same commit, maybe elsewhere: an unpacked sdist has its own headers.
  set_target_properties(swa_fast_core PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES ${CMAKE_CURRENT_SOURCE_DIR}/csrc)
  message(STATUS "swa_fast: kernels from ${SWA_FAST_CORE_DIR}")
endmacro()
