# Sets SWA_FAST_COMMIT, which build_info() names. An sdist has it in the file COMMIT, put there by
# tools/build_backend.py. A checkout asks git; "+changes" says that the tree had some.

set(SWA_FAST_COMMIT "unknown")
if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/COMMIT)
  file(STRINGS ${CMAKE_CURRENT_SOURCE_DIR}/COMMIT SWA_FAST_COMMIT LIMIT_COUNT 1)
elseif(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/.git)  # not a repository that this folder merely lies in
  # In a container the checkout belongs to another user, which git would refuse.
  execute_process(
    COMMAND git -c safe.directory=${CMAKE_CURRENT_SOURCE_DIR} -C ${CMAKE_CURRENT_SOURCE_DIR}
            describe --always --exclude=* --abbrev=12 --dirty=+changes
    OUTPUT_VARIABLE swa_fast_described OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE swa_fast_git_failed ERROR_QUIET)
  if(NOT swa_fast_git_failed)
    set(SWA_FAST_COMMIT "${swa_fast_described}")
  endif()
endif()
