# Compiler, flags and build options shared by every target.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")

option(REELFS_TESTS "Build the tests" ON)
option(REELFS_FUZZ "Build the libFuzzer targets (clang only)" OFF)
set(REELFS_SANITIZE "" CACHE STRING "Sanitizers, as -fsanitize takes them")

add_compile_options(-Wall -Wextra -Wpedantic -Wnon-virtual-dtor -Werror)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 reports a mismatch of new and delete inside optimised Asio coroutines that is not there.
  # and maybe-uninitialized inside outcome's and coroutine frames' moved-from storage likewise.
  add_compile_options(-Wno-mismatched-new-delete -Wno-maybe-uninitialized)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  add_compile_options("SHELL:-include ${PROJECT_SOURCE_DIR}/cmake/clang14.h")
endif()
add_compile_options(-fno-omit-frame-pointer)
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")
set(CMAKE_CXX_FLAGS_SANITIZE "-O1 -g1")
if(REELFS_SANITIZE)
  add_compile_options(-fsanitize=${REELFS_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${REELFS_SANITIZE})
  if(REELFS_SANITIZE MATCHES thread AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Asio's fences, which it cannot follow, stand beside mutexes, which it can.
    add_compile_options(-Wno-tsan)
  endif()
endif()
add_compile_options(-msse4.2)  # CRC32C in one instruction; every x86-64 server since 2008 has it

find_program(REELFS_LLD ld.lld)
if(REELFS_LLD)
  add_link_options(-fuse-ld=lld)
endif()
find_program(REELFS_CCACHE ccache)
if(REELFS_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env
      "CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}" CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=time_macros "${REELFS_CCACHE}")
endif()

add_compile_definitions(
  BOOST_ASIO_NO_DEPRECATED BOOST_ASIO_SEPARATE_COMPILATION
  BOOST_ASIO_DISABLE_BOOST_COROUTINE
  _FILE_OFFSET_BITS=64)
include_directories("${PROJECT_SOURCE_DIR}")
