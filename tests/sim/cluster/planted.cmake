# Copies of the product's sources with mistakes that can be switched on: planted.h. Each replaces one text, which must be
# there: where it was changed, the mistake is to be planted anew, or found to be none any more.

function(reelfs_plant_in path)  # begins a copy of this source
  file(READ "${PROJECT_SOURCE_DIR}/${path}" text)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/${path}")
  set(planted_path "${path}" PARENT_SCOPE)
  set(planted_text "#include \"tests/sim/cluster/planted.h\"\n${text}" PARENT_SCOPE)
endfunction()

# Where the bug is planted `to` holds, else `from`, which is an expression both times.
function(reelfs_plant bug from to)
  string(FIND "${planted_text}" "${from}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "tests/sim/cluster/planted.cmake: ${planted_path} has no \"${from}\" any more")
  endif()
  string(REPLACE "${from}" "(::reelfs::sim::planted(::reelfs::sim::Bug::${bug}) ? (${to}) : (${from}))" text "${planted_text}")
  set(planted_text "${text}" PARENT_SCOPE)
endfunction()

# Before `before` comes the statement `what`, where the bug is planted.
function(reelfs_plant_statement bug before what)
  string(FIND "${planted_text}" "${before}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "tests/sim/cluster/planted.cmake: ${planted_path} has no \"${before}\" any more")
  endif()
  string(REPLACE "${before}" "if (::reelfs::sim::planted(::reelfs::sim::Bug::${bug})) { ${what} }\n${before}" text "${planted_text}")
  set(planted_text "${text}" PARENT_SCOPE)
endfunction()

function(reelfs_planted list)  # ends it, and appends it to the list
  set(copy "${CMAKE_CURRENT_BINARY_DIR}/planted/${planted_path}")
  set(before "")
  if(EXISTS "${copy}")
    file(READ "${copy}" before)
  endif()
  if(NOT before STREQUAL planted_text)
    file(WRITE "${copy}" "${planted_text}")
  endif()
  set(${list} ${${list}} "${copy}" PARENT_SCOPE)
endfunction()

reelfs_plant_in(client/writer/core.cc)
reelfs_plant_statement(place_after_first_copy
  [=[  for (const auto& copy : copies) least = std::min(least, copy.acked);]=]
  [=[std::uint64_t most = 0; for (const auto& copy : copies) most = std::max(most, copy.acked); return std::min(least, most);]=])
reelfs_planted(planted_sources)

reelfs_plant_in(noded/shm/device_table.cc)
reelfs_plant(accept_old_generation
  [=[append.generation.value < descriptor.generation || descriptor.fenced == 1]=] [=[false]=])
reelfs_plant(accept_old_generation
  [=[found.descriptor.fenced == 0 &&
                       found.descriptor.generation == append.generation.value]=] [=[true]=])
reelfs_plant(free_any_generation [=[newest && slot.descriptor.generation > newest.value]=] [=[false]=])
reelfs_planted(planted_sources)

reelfs_plant_in(noded/segment/append.cc)
reelfs_plant(accept_old_generation [=[generation.value < slot.descriptor.generation]=] [=[false]=])
reelfs_planted(planted_sources)

reelfs_plant_in(noded/segment/segment_store.cc)
reelfs_plant(flush_without_length [=[end >= wanted.length]=] [=[true]=])
reelfs_plant_statement(flush_nothing [=[  for (const auto& device : touched) {
    REELFS_CO_TRY(co_await device->sync());]=] [=[touched.clear();]=])
reelfs_plant_statement(fence_without_waiting [=[  REELFS_CO_TRY(co_await drain(located, deadline));
  REELFS_CO_TRY(co_await device.sync());
  auto length = device.table().settle_fence(block, segment, generation);]=]
  [=[Fenced answer; answer.address = found.address; answer.length = device.table().slot(block).end; answer.torn = device.table().torn(block); co_return answer;]=])
reelfs_planted(planted_sources)

reelfs_plant_in(indexd/segments/life.cc)
reelfs_plant(trust_torn [=[fenced.value().torn]=] [=[false]=])
reelfs_plant_statement(drop_short_copy
  [=[    actions.push_back(Complete{copy.node, copy.worker, row_.generation, row_.length, sources});]=]
  [=[actions.push_back(Free{copy.node, copy.worker, {}});]=])
reelfs_plant(seal_before_sync
  [=[store(Step::storing_end, std::move(row), state == SegmentState::sealed)]=]
  [=[store(Step::storing_end, std::move(row), false)]=])
reelfs_plant(grant_before_sync
  [=[store(Step::storing_open, std::move(row), true)]=] [=[store(Step::storing_open, std::move(row), false)]=])
reelfs_planted(planted_sources)

reelfs_plant_in(indexd/tree/extents.cc)
reelfs_plant(commit_unchecked [=[end <= segment.length]=] [=[true]=])
reelfs_planted(planted_sources)
