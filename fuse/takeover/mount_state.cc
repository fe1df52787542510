#include "fuse/takeover/mount_state.h"

#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace reelfs::fuse {
namespace {

using nlohmann::json;

json binary(const std::string& bytes) { return json::binary({bytes.begin(), bytes.end()}); }

std::string bytes_of(const json& value) {
  const auto& bytes = value.get_binary();
  return {bytes.begin(), bytes.end()};
}

json to_json(const client::Attributes& of) {
  return {{"inode", of.inode.value},
          {"generation", of.generation},
          {"mode", of.mode},
          {"uid", of.uid},
          {"gid", of.gid},
          {"nlink", of.nlink},
          {"rdev", of.rdev},
          {"size", of.size},
          {"stored_bytes", of.stored_bytes},
          {"atime_ns", of.atime_ns},
          {"mtime_ns", of.mtime_ns},
          {"ctime_ns", of.ctime_ns},
          {"btime_ns", of.btime_ns},
          {"channel", of.channel.value},
          {"parent", of.parent.value},
          {"version", of.version},
          {"flags", of.flags}};
}

client::Attributes attributes_from(const json& from) {
  client::Attributes attributes;
  attributes.inode = InodeId(from.at("inode").get<std::uint64_t>());
  from.at("generation").get_to(attributes.generation);
  from.at("mode").get_to(attributes.mode);
  from.at("uid").get_to(attributes.uid);
  from.at("gid").get_to(attributes.gid);
  from.at("nlink").get_to(attributes.nlink);
  from.at("rdev").get_to(attributes.rdev);
  from.at("size").get_to(attributes.size);
  from.at("stored_bytes").get_to(attributes.stored_bytes);
  from.at("atime_ns").get_to(attributes.atime_ns);
  from.at("mtime_ns").get_to(attributes.mtime_ns);
  from.at("ctime_ns").get_to(attributes.ctime_ns);
  from.at("btime_ns").get_to(attributes.btime_ns);
  attributes.channel = InodeId(from.at("channel").get<std::uint64_t>());
  attributes.parent = InodeId(from.at("parent").get<std::uint64_t>());
  from.at("version").get_to(attributes.version);
  attributes.flags = from.value("flags", std::uint32_t{0});  // of a process that knew none
  return attributes;
}

json to_json(const MountState::File& file) {
  json message{{"number", file.number}, {"attributes", to_json(file.carried.attributes)}};
  if (const auto& untold = file.carried.untold) {
    message["untold_code"] = static_cast<std::uint16_t>(untold->code());
    message["untold"] = untold->message();
  }
  return message;
}

MountState::File file_from(const json& from) {
  MountState::File file;
  from.at("number").get_to(file.number);
  file.carried.attributes = attributes_from(from.at("attributes"));
  if (from.contains("untold_code")) {
    file.carried.untold.emplace(static_cast<Errc>(from.at("untold_code").get<std::uint16_t>()),
                                from.at("untold").get<std::string>());
  }
  return file;
}

json to_json(const client::CarriedLocks& locks) {
  json pieces = json::array();
  for (const auto& piece : locks.pieces) {
    pieces.push_back({{"first", piece.range.first},
                      {"last", piece.range.last},
                      {"write", piece.type == LockType::write},
                      {"pid", piece.pid}});
  }
  return {{"inode", locks.owner.inode.value}, {"flock", locks.owner.kind == client::LockKind::flock},
          {"owner", locks.owner.id},          {"pieces", std::move(pieces)},
          {"handles", locks.handles},         {"lost", locks.lost}};
}

json to_json(const MountState::Made& made) {
  return {{"node", made.node}, {"number", made.number}, {"content", binary(made.content)}};
}

MountState::Made made_from(const json& from) {
  MountState::Made made;
  from.at("node").get_to(made.node);
  from.at("number").get_to(made.number);
  made.content = bytes_of(from.at("content"));
  return made;
}

client::CarriedLocks locks_from(const json& from) {
  client::CarriedLocks locks;
  locks.owner.inode = InodeId(from.at("inode").get<std::uint64_t>());
  locks.owner.kind = from.at("flock").get<bool>() ? client::LockKind::flock : client::LockKind::posix;
  from.at("owner").get_to(locks.owner.id);
  for (const auto& message : from.at("pieces")) {
    LockRanges::Piece piece;
    message.at("first").get_to(piece.range.first);
    message.at("last").get_to(piece.range.last);
    piece.type = message.at("write").get<bool>() ? LockType::write : LockType::read;
    message.at("pid").get_to(piece.pid);
    locks.pieces.push_back(piece);
  }
  from.at("handles").get_to(locks.handles);
  from.at("lost").get_to(locks.lost);
  return locks;
}

MountState state_from(const json& from) {
  MountState state;
  state.kernel.init_request = bytes_of(from.at("init_request"));
  state.kernel.init_answer = bytes_of(from.at("init_answer"));
  for (const auto& request : from.at("unanswered")) state.kernel.unanswered.push_back(bytes_of(request));
  state.client.session = SessionId(from.at("session").get<std::uint64_t>());
  from.at("last_request").get_to(state.client.last_request);
  from.at("stream").get_to(state.client.stream);
  from.at("confirmed").get_to(state.client.confirmed);
  state.client.assertion = from.value("assertion", std::uint64_t{0});
  for (const auto& locks : from.value("locks", json::array()))
    state.client.locks.push_back(locks_from(locks));
  for (const auto inode : from.value("removed", std::vector<std::uint64_t>()))
    state.client.removed.emplace_back(inode);
  state.root = InodeId(from.at("root").get<std::uint64_t>());
  for (const auto& file : from.at("files")) state.files.push_back(file_from(file));
  for (const auto& made : from.value("made", json::array())) state.made.push_back(made_from(made));
  return state;
}

}  // namespace

json to_json(const MountState& state) {
  json unanswered = json::array();
  for (const auto& request : state.kernel.unanswered) unanswered.push_back(binary(request));
  json locks = json::array();
  for (const auto& each : state.client.locks) locks.push_back(to_json(each));
  json removed = json::array();
  for (const auto inode : state.client.removed) removed.push_back(inode.value);
  json files = json::array();
  for (const auto& file : state.files) files.push_back(to_json(file));
  json all_made = json::array();
  for (const auto& made : state.made) all_made.push_back(to_json(made));
  return {{"init_request", binary(state.kernel.init_request)},
          {"init_answer", binary(state.kernel.init_answer)},
          {"unanswered", std::move(unanswered)},
          {"session", state.client.session.value},
          {"last_request", state.client.last_request},
          {"stream", state.client.stream},
          {"confirmed", state.client.confirmed},
          {"assertion", state.client.assertion},
          {"locks", std::move(locks)},
          {"removed", std::move(removed)},
          {"root", state.root.value},
          {"files", std::move(files)},
          {"made", std::move(all_made)}};
}

Result<MountState> mount_state_from_json(const json& from) {
  try {
    return state_from(from);
  } catch (const json::exception& error) {
    return Error(Errc::protocol, std::string("the state of the mount is not understood: ") + error.what());
  }
}

}  // namespace reelfs::fuse
