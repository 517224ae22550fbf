# Threads for the CPU kernels: SWA_FAST_OPENMP=AUTO|ON|OFF. Without OpenMP they run on one thread.

if(NOT SWA_FAST_OPENMP MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "SWA_FAST_OPENMP must be AUTO, ON or OFF. Received: ${SWA_FAST_OPENMP}")
endif()

if(NOT SWA_FAST_OPENMP STREQUAL "OFF")
  # Apple's compiler has no OpenMP runtime of its own.
  find_package(OpenMP COMPONENTS CXX)
  if(SWA_FAST_OPENMP STREQUAL "ON" AND NOT OpenMP_CXX_FOUND)
    message(FATAL_ERROR "SWA_FAST_OPENMP is ON, but ${CMAKE_CXX_COMPILER} has no OpenMP")
  endif()
endif()

if(SWA_FAST_BUNDLE_LIBGOMP AND NOT OpenMP_CXX_FOUND)
  message(FATAL_ERROR "SWA_FAST_BUNDLE_LIBGOMP is ON, but there is no OpenMP in this build")
endif()

function(swa_fast_add_openmp target)
  if(OpenMP_CXX_FOUND)
    target_link_libraries(${target} PUBLIC OpenMP::OpenMP_CXX)
    return()
  endif()
  message(STATUS "swa_fast: no OpenMP, one thread")
  # The vector loops are marked for the compiler by OpenMP's "simd", which needs no runtime.
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-fopenmp-simd SWA_FAST_HAS_OPENMP_SIMD)
  if(SWA_FAST_HAS_OPENMP_SIMD)
    target_compile_options(${target} PUBLIC $<$<COMPILE_LANGUAGE:CXX>:-fopenmp-simd>)
  else()
    target_compile_options(${target} PUBLIC $<$<COMPILE_LANGUAGE:CXX>:-Wno-unknown-pragmas>)
  endif()
endfunction()

# Puts libgomp.so.1 beside the extension, under the name that other packages know it by, so that a
# process with torch in it has one OpenMP runtime and one pool of threads, whichever came first.
function(swa_fast_install_libgomp target)
  set(library ${SWA_FAST_LIBGOMP})
  if(NOT library)
    execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=libgomp.so.1
                    OUTPUT_VARIABLE library OUTPUT_STRIP_TRAILING_WHITESPACE)
  endif()
  if(NOT IS_ABSOLUTE "${library}" OR NOT EXISTS "${library}")
    message(FATAL_ERROR "SWA_FAST_BUNDLE_LIBGOMP is ON, but there is no libgomp.so.1. "
                        "Received: ${library}")
  endif()
  file(REAL_PATH "${library}" library)
  message(STATUS "swa_fast: carries ${library}")
  install(FILES ${library} DESTINATION swa_fast RENAME libgomp.so.1
          PERMISSIONS OWNER_READ OWNER_WRITE GROUP_READ WORLD_READ)
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN")
endfunction()
