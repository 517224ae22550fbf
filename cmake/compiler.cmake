# A C++ compiler, or one sentence that says what is missing. Whoever reads it asked pip for a
# package and may never have heard of CMake.

set(swa_fast_why_from_source
    "pip builds swa-fast from source where there is no wheel for the platform and Python")
include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  message(FATAL_ERROR
    "swa-fast needs a C++17 compiler (GCC 9 or newer, or Clang 10 or newer), and none was found: "
    "install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: "
    "xcode-select --install), or name yours in the environment variable CXX. "
    "${swa_fast_why_from_source}.")
endif()
enable_language(CXX)
if(NOT CMAKE_CXX_COMPILER_ID MATCHES "^(GNU|Clang|AppleClang)$")
  message(FATAL_ERROR
    "swa-fast needs GCC or Clang. Received: ${CMAKE_CXX_COMPILER_ID} (${CMAKE_CXX_COMPILER}). "
    "${swa_fast_why_from_source}.")
endif()
