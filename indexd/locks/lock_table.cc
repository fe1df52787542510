#include "indexd/locks/lock_table.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace reelfs::indexd {

// ---- what the last life left

void LockTable::load(SessionId session) {
  sessions_.try_emplace(session);
  unheard_ = sessions_.size();
}

void LockTable::load(const LockKey& key, const LockRow& row) {
  const LockOwner owner{key.kind, key.session, key.owner};
  // Rows are pieces already: each comes out as it was.
  (void)files_[key.inode].held[owner].lock({{key.first, row.last}, row.type, row.pid});
  ++held_;
  const auto session = sessions_.find(key.session);
  if (session != sessions_.end()) ++session->second.locks;
}

LockTable::Effect LockTable::begin(Loss loss) {
  grace_ = loss == Loss::possible && unheard_ > 0;
  std::set<SessionId> gone;
  for (const auto& [inode, file] : files_) {
    for (const auto& [owner, ranges] : file.held) {
      if (!sessions_.contains(owner.session)) gone.insert(owner.session);
    }
  }
  Effect effect;
  for (const auto session : gone) erase_locks(session, effect);
  return effect;
}

// ---- sessions

LockTable::Asserted LockTable::assert_locks(SessionId session, std::uint64_t assertion,
                                            std::span<const Lock> held) {
  Asserted asserted;
  auto& effect = asserted.effect;
  const auto [found, is_new] = sessions_.try_emplace(session);
  auto& state = found->second;
  const bool was_unheard = !is_new && !state.assertion;
  state.assertion = assertion;
  state.granted.clear();
  erase_waits(session);
  erase_locks(session, effect);
  for (const auto& lock : held) {
    if (!claim(lock, effect)) asserted.lost.push_back(lock);
  }
  if (was_unheard) now_heard(effect);
  serve_all(effect);
  return asserted;
}

/// What a session says it holds. While rows may be missing, those of a session that has not been heard may be
/// of a lock that it had given up before. A lock that was being made a read lock when touch was lost may have
/// been shared since.
bool LockTable::claim(Lock lock, Effect& effect) {
  if (grace_) {
    for (const auto& owner : blockers(lock)) {
      if (!sessions_.at(owner.session).assertion) unlock(lock.inode, owner, lock.range, effect);
    }
  }
  if (blocking(lock)) lock.type = LockType::read;
  if (blocking(lock)) return false;
  this->lock(lock, effect);
  return true;
}

LockTable::Effect LockTable::end(SessionId session) {
  Effect effect;
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return effect;
  const bool was_unheard = !found->second.assertion;
  erase_waits(session);
  erase_locks(session, effect);
  sessions_.erase(session);
  if (was_unheard) now_heard(effect);
  serve_all(effect);
  return effect;
}

void LockTable::now_heard(Effect& effect) {
  --unheard_;
  if (unheard_ == 0) effect.grace_ended = std::exchange(grace_, false);
}

Result<LockTable::Session*> LockTable::heard(SessionId session, std::uint64_t assertion) {
  const auto found = sessions_.find(session);
  if (found != sessions_.end() && found->second.assertion == assertion) return &found->second;
  return Error(Errc::no_session, fmt::format("session {} has to say first what it holds", session.value));
}

// ---- locks

Result<LockTable::Answer> LockTable::set(const Request& request) {
  const auto& lock = request.lock;
  const auto inode = lock.inode;
  REELFS_TRY(auto* const session, heard(lock.owner.session, request.assertion));
  session->granted.erase(session->granted.begin(), session->granted.lower_bound(request.settled_below));
  Answer answer;
  if (request.wait != 0 && session->granted.contains(request.wait)) return answer;
  if (request.unlock) {
    unlock(inode, lock.owner, lock.range, answer.effect);
    serve(inode, answer.effect);
    return answer;
  }
  const WaitId id{lock.owner.session, request.wait};
  const auto wait = waits_.find(id);
  if (wait == waits_.end() && lock.owner.kind == LockKind::flock && converts(lock)) {
    // flock(2): the old lock goes first, and is gone even where the new one cannot be had.
    unlock(inode, lock.owner, kWholeFile, answer.effect);
    serve(inode, answer.effect);
  }
  const bool blocked = blocking(lock).has_value();
  if (!grace_ && !blocked) {
    if (session->locks >= kMaxLocks) {
      answer.outcome = Outcome::too_many;
      return answer;
    }
    if (wait != waits_.end()) erase_wait(wait);
    if (request.wait != 0) session->granted.insert(request.wait);
    this->lock(lock, answer.effect);
    serve(inode, answer.effect);
    return answer;
  }
  if (request.wait == 0) {
    answer.outcome = blocked && !grace_ ? Outcome::refused : Outcome::grace;
    return answer;
  }
  if (blocked && lock.owner.kind == LockKind::posix && would_deadlock(lock)) {
    if (wait != waits_.end()) erase_wait(wait);
    answer.outcome = Outcome::deadlock;
    return answer;
  }
  if (wait == waits_.end()) {
    if (session->waits >= kMaxWaits) {
      answer.outcome = Outcome::too_many;
      return answer;
    }
    auto& waiting = files_[inode].waiting;
    waits_.emplace(id, std::pair(inode, waiting.insert(waiting.end(), {id, lock})));
    waits_of_.emplace(lock.owner, id);
    ++session->waits;
  }
  answer.outcome = Outcome::waiting;
  return answer;
}

Result<LockTable::Wait> LockTable::cancel(WaitId wait, std::uint64_t assertion) {
  REELFS_TRY(auto* const session, heard(wait.session, assertion));
  if (session->granted.erase(wait.number) > 0) return Wait::had_been_granted;
  const auto found = waits_.find(wait);
  if (found != waits_.end()) erase_wait(found);
  return Wait::ended;
}

Result<std::optional<Lock>> LockTable::test(const Lock& wanted, std::uint64_t assertion) {
  REELFS_TRY(heard(wanted.owner.session, assertion));
  return blocking(wanted);
}

/// Whether the owner holds a lock of the other type.
bool LockTable::converts(const Lock& lock) const {
  const auto file = files_.find(lock.inode);
  if (file == files_.end()) return false;
  const auto held = file->second.held.find(lock.owner);
  return held != file->second.held.end() && held->second.pieces().front().type != lock.type;
}

/// The first lock in the file that is in the way.
std::optional<Lock> LockTable::blocking(const Lock& wanted) const {
  std::optional<Lock> first;
  const auto file = files_.find(wanted.inode);
  if (file == files_.end()) return first;
  for (const auto& [owner, ranges] : file->second.held) {
    if (owner == wanted.owner || owner.kind != wanted.owner.kind) continue;
    const auto piece = ranges.blocking(wanted.range, wanted.type);
    if (piece && (!first || piece->range.first < first->range.first))
      first = Lock{wanted.inode, owner, piece->range, piece->type, piece->pid};
  }
  return first;
}

std::vector<LockOwner> LockTable::blockers(const Lock& wanted) const {
  std::vector<LockOwner> owners;
  const auto file = files_.find(wanted.inode);
  if (file == files_.end()) return owners;
  for (const auto& [owner, ranges] : file->second.held) {
    if (owner == wanted.owner || owner.kind != wanted.owner.kind) continue;
    if (ranges.blocking(wanted.range, wanted.type)) owners.push_back(owner);
  }
  return owners;
}

/// Whether those in the way wait, themselves or through others, for the owner of `wanted`.
bool LockTable::would_deadlock(const Lock& wanted) const {
  std::set<LockOwner> seen;
  auto open = blockers(wanted);
  while (!open.empty()) {
    const auto owner = open.back();
    open.pop_back();
    if (owner == wanted.owner) return true;
    if (!seen.insert(owner).second) continue;
    const auto [begin, end] = waits_of_.equal_range(owner);
    for (auto at = begin; at != end; ++at) {
      const auto further = blockers(waits_.at(at->second).second->wanted);
      open.insert(open.end(), further.begin(), further.end());
    }
  }
  return false;
}

/// Gives what has become free to those who wait for it.
void LockTable::serve(InodeId inode, Effect& effect) {
  if (grace_) return;
  for (bool again = true; again;) {  // what one gets may leave something free: a write lock made a read lock
    again = false;
    const auto file = files_.find(inode);
    if (file == files_.end()) return;
    for (const auto& waiting : file->second.waiting) {
      if (blocking(waiting.wanted)) continue;
      const auto granted = waiting;
      erase_wait(waits_.find(granted.id));
      sessions_.at(granted.id.session).granted.insert(granted.id.number);
      lock(granted.wanted, effect);
      effect.granted.push_back(granted.id);
      again = true;
      break;
    }
  }
}

void LockTable::serve_all(Effect& effect) {
  std::set<InodeId> waited_for;
  for (const auto& [id, wait] : waits_) waited_for.insert(wait.first);
  for (const auto inode : waited_for) serve(inode, effect);
}

// ---- what is stored

void LockTable::lock(const Lock& lock, Effect& effect) {
  auto& ranges = files_[lock.inode].held[lock.owner];
  const auto before = ranges.size();
  const auto changes = ranges.lock({lock.range, lock.type, lock.pid});
  note(lock.inode, lock.owner, changes, effect);
  held_ += ranges.size() - before;  // may wrap and come back
  sessions_.at(lock.owner.session).locks += ranges.size() - before;
}

void LockTable::unlock(InodeId inode, const LockOwner& owner, ByteRange range, Effect& effect) {
  const auto file = files_.find(inode);
  if (file == files_.end()) return;
  const auto found = file->second.held.find(owner);
  if (found == file->second.held.end()) return;
  auto& ranges = found->second;
  const auto before = ranges.size();
  const auto changes = ranges.unlock(range);
  note(inode, owner, changes, effect);
  held_ += ranges.size() - before;
  const auto session = sessions_.find(owner.session);
  if (session != sessions_.end()) session->second.locks += ranges.size() - before;
  if (!ranges.empty()) return;
  file->second.held.erase(found);
  if (file->second.empty()) files_.erase(file);
}

void LockTable::note(InodeId inode, const LockOwner& owner, const LockRanges::Changes& changes,
                     Effect& effect) {
  const auto key = [&](std::uint64_t first) {
    return LockKey{inode, owner.kind, owner.session, owner.id, first};
  };
  for (const auto first : changes.gone) effect.changes.push_back({key(first), std::nullopt});
  for (const auto& piece : changes.put) {
    effect.changes.push_back({key(piece.range.first), LockRow{piece.range.last, piece.type, piece.pid}});
  }
}

void LockTable::erase_locks(SessionId session, Effect& effect) {
  std::vector<std::pair<InodeId, LockOwner>> owned;
  for (const auto& [inode, file] : files_) {
    for (const auto& [owner, ranges] : file.held) {
      if (owner.session == session) owned.emplace_back(inode, owner);
    }
  }
  for (const auto& [inode, owner] : owned) unlock(inode, owner, kWholeFile, effect);
}

void LockTable::erase_waits(SessionId session) {
  while (true) {
    const auto wait = waits_.lower_bound(WaitId{session, 0});
    if (wait == waits_.end() || wait->first.session != session) return;
    erase_wait(wait);
  }
}

void LockTable::erase_wait(Waits::iterator wait) {
  const auto [inode, place] = wait->second;
  const auto [begin, end] = waits_of_.equal_range(place->wanted.owner);
  waits_of_.erase(std::find_if(begin, end, [&](const auto& entry) { return entry.second == wait->first; }));
  --sessions_.at(wait->first.session).waits;
  const auto file = files_.find(inode);
  file->second.waiting.erase(place);
  if (file->second.empty()) files_.erase(file);
  waits_.erase(wait);
}

// ---- for people

std::vector<LockTable::Listed> LockTable::list(InodeId after, std::size_t limit) const {
  std::vector<Listed> all;
  for (auto file = files_.upper_bound(after); file != files_.end() && all.size() < limit; ++file) {
    for (const auto& [owner, ranges] : file->second.held) {
      for (const auto& piece : ranges.pieces())
        all.push_back({{file->first, owner, piece.range, piece.type, piece.pid}, false});
    }
    for (const auto& waiting : file->second.waiting) all.push_back({waiting.wanted, true});
  }
  return all;
}

}  // namespace reelfs::indexd
