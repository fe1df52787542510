# reelfs_library(NAME SOURCES a.cc ... [DEPS target ...])
#
# One folder, one static library. A link_test executable is linked against the whole archive and the named
# dependencies alone, so that a call to a folder which was not named fails to link.
function(reelfs_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS})
  if(REELFS_TESTS AND NOT REELFS_SANITIZE)  # one build that links them is enough
    add_executable(link_test_${name} "${PROJECT_SOURCE_DIR}/cmake/link_test.cc")
    target_link_libraries(link_test_${name} PRIVATE "$<LINK_LIBRARY:reelfs_whole_archive,${name}>" ${ARG_DEPS})
    set_target_properties(link_test_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/link_test")
  endif()
endfunction()
set(CMAKE_LINK_LIBRARY_USING_reelfs_whole_archive "-Wl,--whole-archive" "<LINK_ITEM>" "-Wl,--no-whole-archive")
set(CMAKE_LINK_LIBRARY_USING_reelfs_whole_archive_SUPPORTED TRUE)

# reelfs_unit_test(NAME SOURCES a_test.cc ... DEPS target ...): one binary, one CTest entry. `unit_tests` builds them all.
add_custom_target(unit_tests)
function(reelfs_unit_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gtest GTest::gtest_main)
  add_dependencies(unit_tests ${name})
  add_test(NAME ${name} COMMAND ${name})
  # librocksdb is not instrumented: that it publishes its memtable's entries with atomics cannot be seen.
  set_tests_properties(${name} PROPERTIES TIMEOUT 300 LABELS unit
                       ENVIRONMENT "TSAN_OPTIONS=ignore_noninstrumented_modules=1")
endfunction()

# reelfs_fuzz(NAME SOURCES fuzz_x.cc decoder.cc ... [DEPS target ...]): a libFuzzer program of -DREELFS_FUZZ=ON.
#
# The decoder's own .cc files are among the sources, so that they are instrumented and clang need not compile the whole
# tree; give DEPS for what it merely uses. Its file defines reelfs::fuzz::run and reelfs::fuzz::seeds (tests/fuzz/fuzz.h).
function(reelfs_fuzz name)
  if(NOT REELFS_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  list(TRANSFORM ARG_SOURCES PREPEND "${PROJECT_SOURCE_DIR}/")
  add_executable(${name} ${ARG_SOURCES} "${PROJECT_SOURCE_DIR}/tests/fuzz/fuzz.cc")
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_libraries(${name} PRIVATE Boost::headers ${ARG_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/fuzz")
  if(NOT TARGET fuzz_all)
    add_custom_target(fuzz_all)
  endif()
  add_dependencies(fuzz_all ${name})
endfunction()
