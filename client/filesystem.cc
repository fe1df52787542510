#include "client/filesystem.h"

#include <algorithm>
#include <utility>

#include <boost/asio/cancellation_state.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/this_coro.hpp>
#include <sys/stat.h>

#include "client/arrivals/arrivals.h"
#include "client/file_state.h"
#include "client/index_client.h"
#include "client/leased.h"
#include "client/locks/locks.h"
#include "client/node_pool.h"
#include "client/open_file.h"
#include "client/read_times.h"
#include "client/reader.h"
#include "client/record_reader.h"
#include "client/releaser.h"
#include "client/removed_inodes.h"
#include "client/wire_attributes.h"
#include "client/write_back.h"
#include "client/writer.h"
#include "common/async/task_group.h"
#include "common/async/timeout.h"
#include "common/base/assert.h"
#include "common/observe/log.h"
#include "common/wire/common.pb.h"
#include "common/wire/gap_cause.h"
#include "common/wire/index.pb.h"

namespace reelfs::client {
namespace {

using namespace std::chrono_literals;

// How long the end of a mount waits for the index to take segments back.
constexpr Duration kClosePatience = 5s;
// The index answers a watch after a second.
constexpr Duration kWatchPatience = 5s;
constexpr Duration kWatchRetry = 100ms;
// Where a change was given up: how long nothing is believed, and which answers are too late to be believed
// ever after, because the index may have been stopped since, and carry it out together with them.
constexpr Duration kDoubt = 10s;
constexpr Duration kLateAnswer = 100ms;

spdlog::logger& log() { return logger("client.filesystem"); }

/// The index takes both ends of a time as included.
template <class Request>
void set_time(const TimeRange& time, Request& request) {
  request.set_from_ns(time.from_ns);
  request.set_to_ns(time.to_ns - 1);
}

wire::FindRecordingsRequest find_request(const RecordingsWanted& wanted) {
  constexpr std::uint32_t kRecordingsAtOnce = 512;
  wire::FindRecordingsRequest request;
  request.set_channel(wanted.channel.value);
  request.set_inode(wanted.inode.value);
  request.set_path(wanted.path);
  if (wanted.bytes_in) set_time(*wanted.bytes_in, request);
  request.set_limit(kRecordingsAtOnce);
  return request;
}

/// Makes one of those that touch or overlap.
void merge(std::vector<TimeRange>& times) {
  std::sort(times.begin(), times.end(), [](const auto& a, const auto& b) { return a.from_ns < b.from_ns; });
  std::vector<TimeRange> merged;
  for (const auto& time : times) {
    if (merged.empty() || time.from_ns > merged.back().to_ns) {
      merged.push_back(time);
    } else {
      merged.back().to_ns = std::max(merged.back().to_ns, time.to_ns);
    }
  }
  times = std::move(merged);
}

wire::CreateRequest create_request(const CreateOptions& options) {
  wire::CreateRequest request;
  request.set_parent(options.parent.value);
  request.set_name(options.name);
  request.set_mode(options.mode);
  request.set_uid(options.uid);
  request.set_gid(options.gid);
  request.set_rdev(options.rdev);
  request.set_umask(options.umask);
  request.set_symlink_target(options.symlink_target);
  request.set_exclusive(true);
  return request;
}

}  // namespace

struct FileSystem::State {
  State(asio::io_context& io, const Clock& machine_clock, ClusterConfig config, FileSystemOptions opts,
        Result<std::shared_ptr<const rpc::TlsContext>> tls);

  Deadline deadline() const { return Deadline::after(clock, options.timeout); }
  template <class R, class Q>
  Task<R> call(wire::Method method, Q request) {
    return call<R>(method, std::move(request), deadline());
  }
  template <class R, class Q>
  Task<R> call(wire::Method method, Q request, Deadline until) {
    if constexpr (requires { request.mutable_header(); }) {
      Doubt doubt(*this);
      auto reply = co_await index.call<R>(method, std::move(request), until);
      if (reply || !may_have_happened(reply.error().code())) doubt.settle();
      co_return std::move(reply);
    } else {
      co_return co_await index.call<R>(method, std::move(request), until);
    }
  }
  // Calls whose answer is an inode's attributes.
  template <class Q>
  Task<Attributes> call_for_attributes(wire::Method method, Q request) {
    REELFS_CO_TRY(const auto reply, co_await call<wire::AttributesReply>(method, std::move(request)));
    co_return files.note(from_wire(reply.attributes()));
  }

  /// A change under way. Where its caller gives up before the index has answered it may be carried out all
  /// the same, later, and nobody tells us of our own changes: what is believed is then forgotten, and nothing
  /// is believed for a while.
  class Doubt {
   public:
    explicit Doubt(State& state) : state_(&state) {}
    ~Doubt() {
      if (state_ != nullptr) state_->forget_all();
    }
    Doubt(const Doubt&) = delete;
    Doubt& operator=(const Doubt&) = delete;
    void settle() { state_ = nullptr; }

   private:
    State* state_;
  };
  void forget_all();
  /// When something was asked, and how many changes by others had been told by then.
  struct Asked {
    TimePoint at;
    std::uint64_t changes;
  };
  Asked asked() const { return {clock.now(), changes}; }
  /// What is left of a lease in the answer. A change that was told meanwhile may have been made after what is
  /// answered, and will not be told again.
  std::chrono::milliseconds lease_left(Asked asked, std::uint32_t lease_ms) const;
  /// What an answer says of an inode, with what is left of its lease.
  Attributes note_leased(const wire::Attributes& told, std::chrono::milliseconds lease);
  asio::awaitable<void> watch();
  void start_watching();

  std::shared_ptr<FileHandle> handle_on(const std::shared_ptr<FileState>& file);
  Task<void> open_in_index(std::shared_ptr<FileState> file, Deadline until);
  Task<Attributes> remove(InodeId parent, std::string name, bool directory);
  Attributes note_unnamed(const wire::Attributes& told, bool kept);
  asio::awaitable<void> stop(IndexClient::Ending ending);
  asio::awaitable<void> stop_index_at(Deadline until, IndexClient::Ending ending);
  Task<void> flush(InodeId inode);

  asio::io_context& context;
  const Clock& clock;
  const FileSystemOptions options;
  const Result<void> identity;  // whether the TLS files could be loaded
  IndexClient index;
  NodePool nodes;
  Writer writer;
  FileTable files;
  RecordReader records;
  Reader reader;
  std::shared_ptr<WriteBack> write_back;
  Arrivals arrivals;
  Releaser releaser;
  ReadTimes read_times;
  RemovedInodes removed;
  std::function<asio::awaitable<void>(Change)> forget;  // nobody wants leases where empty
  std::uint64_t changes = 0;                            // by others, told so far
  Leased leased;
  std::optional<TimePoint> doubted;  // when a change was last given up before it was answered
  struct Watched {
    std::uint64_t stream = 0;
    std::uint64_t confirmed = 0;
  } watched;  // another process's stream goes on: what it was not told in time is told here
  Locks locks;
  Condition index_stopped;
  enum class IndexLife { running, stopping, stopped } index_life = IndexLife::running;
  TaskGroup background;
  std::unique_ptr<TaskGroup> watching;
};

namespace {

using Tls = Result<std::shared_ptr<const rpc::TlsContext>>;

Tls load_tls(const rpc::TlsFiles& files) {
  if (files.empty()) return std::shared_ptr<const rpc::TlsContext>();
  return rpc::TlsContext::load(files);
}

IndexClient::Options index_options(const FileSystemOptions& options, const Tls& tls) {
  IndexClient::Options index;
  index.purpose = options.purpose;
  index.timeout = options.timeout;
  index.session = options.standing.session;
  index.last_request = options.standing.last_request;
  index.assertion = options.standing.assertion;
  if (tls) index.tls = tls.value();
  return index;
}

rpc::ClientOptions node_options(const Tls& tls) {
  rpc::ClientOptions node;
  node.repeatable = true;  // appends, reads and syncs
  if (tls) node.tls = tls.value();
  return node;
}

WriterOptions writer_options(const FileSystemOptions& options) {
  WriterOptions writer;
  writer.timeout = options.timeout;
  return writer;
}

RecordReaderOptions record_options(const FileSystemOptions& options) {
  RecordReaderOptions records;
  records.timeout = options.timeout;
  records.attempt_timeout = std::min(records.attempt_timeout, options.timeout);
  return records;
}

WriteBackOptions write_back_options(const FileSystemOptions& options) {
  WriteBackOptions write_back;
  write_back.max_dirty_bytes = options.max_dirty_bytes;
  return write_back;
}

}  // namespace

FileSystem::State::State(asio::io_context& io, const Clock& machine_clock, ClusterConfig config,
                         FileSystemOptions opts, Tls tls)
    : context(io),
      clock(machine_clock),
      options(std::move(opts)),
      identity(tls ? Result<void>(ok()) : Result<void>(tls.error())),
      index(io, machine_clock, std::move(config), index_options(options, tls)),
      nodes(io, machine_clock, node_options(tls)),
      writer(io, machine_clock, index, nodes, writer_options(options)),
      files(machine_clock),
      records(io.get_executor(), machine_clock, index, nodes, record_options(options)),
      reader(io.get_executor(), machine_clock, index, files, records),
      write_back(
          std::make_shared<WriteBack>(io, machine_clock, index, writer, files, write_back_options(options))),
      arrivals(io.get_executor(), machine_clock, index),
      releaser(io.get_executor(), machine_clock, index, files, options.timeout),
      read_times(io.get_executor(), machine_clock, index, files),
      removed(
          io.get_executor(), machine_clock, index, files, releaser,
          [this](std::shared_ptr<FileState> file) { return open_in_index(std::move(file), deadline()); },
          options.timeout),
      leased(machine_clock),
      watched{options.standing.stream, options.standing.confirmed},
      locks(machine_clock, index, options.timeout, [this](InodeId inode) { return flush(inode); }),
      background(io.get_executor()) {
  locks.adopt(options.standing.locks);
  removed.adopt(options.standing.removed);
  index.on_epoch([this](Epoch epoch) { nodes.set_epoch(epoch); });
  index.on_resume([this] {
    removed.keep_open();
    return files.open_inodes();
  });
  write_back->on_clean([this](const std::shared_ptr<FileState>& file) {
    releaser.give_back(file);
    files.forget_unused(file);
  });
}

std::shared_ptr<FileHandle> FileSystem::State::handle_on(const std::shared_ptr<FileState>& file) {
  OpenFile::Parts parts{clock, index, files, reader, write_back, arrivals, options.timeout};
  return std::make_shared<OpenFile>(std::move(parts), file);
}

FileSystem::FileSystem(asio::io_context& context, const Clock& clock, ClusterConfig config,
                       FileSystemOptions options) {
  auto tls = load_tls(config.tls);
  state_ = std::make_unique<State>(context, clock, std::move(config), std::move(options), std::move(tls));
}

FileSystem::~FileSystem() = default;

Task<void> FileSystem::start() {
  REELFS_CO_TRY(state_->identity);
  state_->write_back->start();
  state_->arrivals.start();
  state_->start_watching();
  co_return co_await state_->index.start();
}

void FileSystem::on_change(std::function<asio::awaitable<void>(Change)> forget) {
  state_->forget = std::move(forget);
}

asio::awaitable<void> FileSystem::stop() { co_await state_->stop(IndexClient::Ending::close_session); }

asio::awaitable<void> FileSystem::leave() { co_await state_->stop(IndexClient::Ending::leave_session); }

Task<Standing> FileSystem::pause(std::chrono::milliseconds limit) {
  auto& state = *state_;
  const auto until = Deadline::after(state.clock, limit);
  REELFS_CO_TRY(co_await state.write_back->sync_all(until));
  REELFS_CO_TRY(co_await state.removed.pause(until));
  REELFS_CO_TRY(co_await state.releaser.pause(until));
  // Where that is not answered, what it says is not known: no reason not to go on.
  (void)co_await state.arrivals.tell(until);
  if (state.watching) co_await state.watching->stop();
  if (!state.index.session()) co_return Error(Errc::unavailable, "there is no session with the index");
  Standing standing;
  standing.session = state.index.session();
  standing.last_request = state.index.last_request();
  standing.assertion = state.index.assertion();
  standing.locks = state.locks.carry();
  standing.removed = state.removed.all();
  standing.stream = state.watched.stream;
  standing.confirmed = state.watched.confirmed;
  state.index.yield_session();
  co_return standing;
}

void FileSystem::resume() {
  state_->index.reclaim_session();
  state_->releaser.resume();
  state_->removed.resume();
  if (!state_->watching || state_->watching->stopping()) state_->start_watching();
}

std::shared_ptr<FileHandle> FileSystem::adopt(const FileHandle::Carried& carried) {
  const auto file = state_->files.obtain(carried.attributes.inode);
  ++file->uses;
  file->open_in_index = true;
  state_->files.note(carried.attributes);
  state_->files.distrust(file->inode);
  if (carried.untold && file->locked([&] { return file->errors; }) == 0) file->fail(*carried.untold);
  auto handle = state_->handle_on(file);
  if (carried.untold) static_cast<OpenFile&>(*handle).owe_failures();
  return handle;
}

asio::awaitable<void> FileSystem::State::stop(IndexClient::Ending ending) {
  auto& state = *this;
  const auto drained = co_await state.write_back->drain(state.deadline());
  if (!drained) log().error("written bytes are lost error={}", drained.error().describe());
  co_await state.write_back->stop();
  co_await state.arrivals.stop();
  co_await state.read_times.stop();
  co_await state.removed.stop();
  co_await state.releaser.stop();
  co_await state.reader.stop();
  co_await state.records.stop();
  // The writer gives its grants back to an index that may be gone.
  state.background.spawn(state.stop_index_at(Deadline::after(state.clock, kClosePatience), ending));
  co_await state.writer.stop();
  if (state.index_life == State::IndexLife::running) {
    state.index_life = State::IndexLife::stopping;
    co_await state.index.stop(ending);
    state.index_life = State::IndexLife::stopped;
  }
  while (state.index_life != State::IndexLife::stopped) {
    const auto waited =
        co_await state.index_stopped.wait(state.clock, Deadline::after(state.clock, kClosePatience));
    if (!waited && waited.error().code() == Errc::cancelled) break;
  }
  if (state.watching) co_await state.watching->stop();
  co_await state.background.stop();
  co_await state.nodes.stop();
}

asio::awaitable<void> FileSystem::State::stop_index_at(Deadline until, IndexClient::Ending ending) {
  co_await sleep_for(until.left(clock));
  if (index_life != IndexLife::running) co_return;
  log().warn("the index is not reached, segments stay open until the session runs out");
  index_life = IndexLife::stopping;
  co_await index.stop(ending);
  index_life = IndexLife::stopped;
  index_stopped.notify_all();
}

// ---- leases

std::chrono::milliseconds FileSystem::State::lease_left(Asked asked, std::uint32_t lease_ms) const {
  using std::chrono::milliseconds;
  const auto passed = std::chrono::ceil<milliseconds>(clock.now() - asked.at);
  if (asked.changes != changes) return milliseconds::zero();
  if (doubted && (asked.at - *doubted < kDoubt || passed > kLateAnswer)) return milliseconds::zero();
  return std::max(milliseconds(lease_ms) - passed, milliseconds::zero());
}

void FileSystem::State::start_watching() {
  if (!forget) return;
  watching = std::make_unique<TaskGroup>(context.get_executor());
  watching->spawn(watch());
}

Attributes FileSystem::State::note_leased(const wire::Attributes& told, std::chrono::milliseconds lease) {
  auto attributes = from_wire(told);
  attributes.lease = lease;
  if (lease.count() > 0) leased.note(attributes.inode);
  return files.note(attributes);
}

void FileSystem::State::forget_all() {
  if (!forget) return;
  doubted = clock.now();
  ++changes;
  for (const auto inode : files.open_inodes()) files.distrust(inode);
  background.spawn(forget(leased.all()));
  leased.clear();
}

Change FileSystem::leased() const { return state_->leased.all(); }

asio::awaitable<void> FileSystem::State::watch() {
  while (index_life == IndexLife::running) {
    wire::WatchChangesRequest request;
    request.set_stream(watched.stream);
    request.set_confirmed(watched.confirmed);
    auto reply = co_await index.call<wire::WatchChangesReply>(wire::Method::watch_changes, std::move(request),
                                                              Deadline::after(clock, kWatchPatience));
    if (!reply) {
      if (reply.error().code() == Errc::cancelled) co_return;
      co_await sleep_for(kWatchRetry);
      continue;
    }
    const bool everything = reply.value().everything();
    Change change = everything ? leased.all() : Change();
    for (const auto inode : reply.value().inodes()) change.inodes.push_back(InodeId{inode});
    for (auto& name : *reply.value().mutable_names())
      change.names.push_back({InodeId{name.parent()}, std::move(*name.mutable_name())});
    if (everything) {
      for (const auto inode : files.open_inodes()) change.inodes.push_back(inode);
    }
    for (const auto inode : change.inodes) files.distrust(inode);
    if (everything || !change.inodes.empty() || !change.names.empty()) {
      ++changes;
      co_await forget(std::move(change));
      const auto cancellation = co_await asio::this_coro::cancellation_state;
      if (cancellation.cancelled() != asio::cancellation_type::none) co_return;  // and not confirmed
      if (everything) leased.clear();
    }
    watched = {reply.value().stream(), reply.value().upto()};
  }
}

// ---- names and attributes

Task<Found> FileSystem::find(InodeId parent, std::string name) {
  const auto asked = state_->asked();
  wire::LookupRequest request;
  request.set_parent(parent.value);
  request.set_name(name);
  const auto reply = co_await state_->call<wire::AttributesReply>(wire::Method::lookup, std::move(request));
  if (!reply && reply.error().code() != Errc::not_found) co_return reply.error();
  Found found;
  if (!reply) co_return found;
  found.lease = state_->lease_left(asked, reply.value().lease_ms());
  if (found.lease.count() > 0) state_->leased.note(parent, name);
  if (reply.value().has_attributes())
    found.attributes = state_->note_leased(reply.value().attributes(), found.lease);
  co_return found;
}

Task<Attributes> FileSystem::lookup(InodeId parent, std::string name) {
  REELFS_CO_TRY(auto found, co_await find(parent, std::move(name)));
  if (!found.attributes) co_return Error(Errc::not_found);
  co_return std::move(*found.attributes);
}

Task<Attributes> FileSystem::get_attributes(InodeId inode) {
  const auto asked = state_->asked();
  wire::GetAttributesRequest request;
  request.set_inode(inode.value);
  REELFS_CO_TRY(const auto reply, co_await state_->call<wire::AttributesReply>(wire::Method::get_attributes,
                                                                               std::move(request)));
  co_return state_->note_leased(reply.attributes(), state_->lease_left(asked, reply.lease_ms()));
}

Task<Attributes> FileSystem::set_attributes(InodeId inode, AttributeChanges changes) {
  auto& state = *state_;
  const auto until = state.deadline();
  wire::SetAttributesRequest request;
  request.set_inode(inode.value);
  to_wire(changes, request);
  if (changes.atime_ns || changes.atime_now) state.files.forget_read(inode);
  const auto file = state.files.find(inode);
  if (!file) co_return co_await state.call_for_attributes(wire::Method::set_attributes, std::move(request));

  // What was written before takes effect before: a later commit must not bring back bytes that were cut off,
  // nor the time of a write in place of the one that is set now.
  const FileUse use(state.files, state.releaser, file);
  REELFS_CO_TRY(co_await state.write_back->flush(file, until));
  const WriteBack::Barrier barrier(*state.write_back, file);
  REELFS_CO_TRY(co_await state.write_back->wait_for_commit(file, until));
  REELFS_CO_TRY(const auto reply, co_await state.call<wire::AttributesReply>(wire::Method::set_attributes,
                                                                             std::move(request), until));
  co_return state.files.note(from_wire(reply.attributes()));
}

Task<Attributes> FileSystem::create(CreateOptions options) {
  co_return co_await state_->call_for_attributes(wire::Method::create, create_request(options));
}

Task<Attributes> FileSystem::link(InodeId inode, InodeId parent, std::string name) {
  wire::LinkRequest request;
  request.set_inode(inode.value);
  request.set_parent(parent.value);
  request.set_name(std::move(name));
  co_return co_await state_->call_for_attributes(wire::Method::link, std::move(request));
}

Task<Attributes> FileSystem::unlink(InodeId parent, std::string name) {
  return state_->remove(parent, std::move(name), false);
}

Task<Attributes> FileSystem::remove_directory(InodeId parent, std::string name) {
  return state_->remove(parent, std::move(name), true);
}

Task<Attributes> FileSystem::State::remove(InodeId parent, std::string name, bool directory) {
  wire::UnlinkRequest request;
  request.set_parent(parent.value);
  request.set_name(std::move(name));
  request.set_directory(directory);
  const bool keep = options.keep_removed && removed.has_room();
  request.set_keep(keep);
  REELFS_CO_TRY(const auto reply, co_await call<wire::UnlinkReply>(wire::Method::unlink, std::move(request)));
  co_return note_unnamed(reply.attributes(), keep);
}

Attributes FileSystem::State::note_unnamed(const wire::Attributes& told, bool kept) {
  if (kept && told.nlink() == 0) removed.note(InodeId{told.inode()});
  return files.note(from_wire(told));
}

void FileSystem::let_go(InodeId inode) { state_->removed.let_go(inode); }

Task<std::optional<Attributes>> FileSystem::rename(InodeId parent, std::string name, InodeId new_parent,
                                                   std::string new_name, std::uint32_t flags) {
  wire::RenameRequest request;
  request.set_parent(parent.value);
  request.set_name(std::move(name));
  request.set_new_parent(new_parent.value);
  request.set_new_name(std::move(new_name));
  request.set_flags(flags);
  const bool keep = state_->options.keep_removed && state_->removed.has_room();
  request.set_keep(keep);
  REELFS_CO_TRY(const auto reply,
                co_await state_->call<wire::RenameReply>(wire::Method::rename, std::move(request)));
  std::optional<Attributes> replaced;
  if (reply.has_replaced()) replaced = state_->note_unnamed(reply.replaced(), keep);
  co_return replaced;
}

Task<std::string> FileSystem::read_link(InodeId inode) {
  wire::ReadLinkRequest request;
  request.set_inode(inode.value);
  REELFS_CO_TRY(auto reply,
                co_await state_->call<wire::ReadLinkReply>(wire::Method::read_link, std::move(request)));
  co_return std::move(*reply.mutable_target());
}

Task<DirectoryPage> FileSystem::read_directory(InodeId inode, std::uint64_t after, std::uint32_t limit) {
  const auto asked = state_->asked();
  wire::ReadDirectoryRequest request;
  request.set_inode(inode.value);
  request.set_after(after);
  request.set_limit(limit);
  REELFS_CO_TRY(auto reply, co_await state_->call<wire::ReadDirectoryReply>(wire::Method::read_directory,
                                                                            std::move(request)));
  DirectoryPage page;
  page.end = reply.end();
  page.lease = state_->lease_left(asked, reply.lease_ms());
  page.entries.reserve(static_cast<std::size_t>(reply.entries_size()));
  for (auto& message : *reply.mutable_entries()) {
    DirectoryEntry entry;
    entry.name = std::move(*message.mutable_name());
    entry.cookie = message.cookie();
    if (page.lease.count() > 0) state_->leased.note(inode, entry.name);
    entry.attributes = state_->note_leased(message.attributes(), page.lease);
    page.entries.push_back(std::move(entry));
  }
  co_return std::move(page);
}

Task<void> FileSystem::sync_directory(InodeId) {
  co_return co_await state_->write_back->sync_journal(state_->deadline());
}

Task<std::string> FileSystem::get_xattr(InodeId inode, std::string name) {
  wire::GetXattrRequest request;
  request.set_inode(inode.value);
  request.set_name(std::move(name));
  REELFS_CO_TRY(auto reply,
                co_await state_->call<wire::GetXattrReply>(wire::Method::get_xattr, std::move(request)));
  co_return std::move(*reply.mutable_value());
}

Task<std::vector<std::string>> FileSystem::list_xattr(InodeId inode) {
  wire::ListXattrRequest request;
  request.set_inode(inode.value);
  REELFS_CO_TRY(const auto reply,
                co_await state_->call<wire::ListXattrReply>(wire::Method::list_xattr, std::move(request)));
  co_return std::vector<std::string>(reply.names().begin(), reply.names().end());
}

Task<void> FileSystem::set_xattr(XattrSetting setting) {
  wire::SetXattrRequest request;
  request.set_inode(setting.inode.value);
  request.set_name(std::move(setting.name));
  request.set_value(std::move(setting.value));
  request.set_flags(setting.flags);
  request.set_clear_sgid(setting.clear_sgid);
  request.set_uid(setting.uid);
  REELFS_CO_TRY(co_await state_->call<wire::Empty>(wire::Method::set_xattr, std::move(request)));
  co_return ok();
}

Task<void> FileSystem::remove_xattr(XattrRemoval removal) {
  wire::RemoveXattrRequest request;
  request.set_inode(removal.inode.value);
  request.set_name(std::move(removal.name));
  request.set_uid(removal.uid);
  REELFS_CO_TRY(co_await state_->call<wire::Empty>(wire::Method::remove_xattr, std::move(request)));
  co_return ok();
}

Task<Space> FileSystem::statfs(InodeId inode) {
  wire::StatFsRequest request;
  request.set_inode(inode.value);
  REELFS_CO_TRY(const auto reply,
                co_await state_->call<wire::StatFsReply>(wire::Method::statfs, std::move(request)));
  Space space;
  space.total_bytes = reply.total_bytes();
  space.free_bytes = reply.free_bytes();
  space.available_bytes = reply.has_available_bytes() ? reply.available_bytes() : reply.free_bytes();
  space.files = reply.files();
  co_return space;
}

Task<std::vector<Recording>> FileSystem::find_recordings(RecordingsWanted wanted) {
  std::vector<Recording> found;
  auto request = find_request(wanted);
  for (;;) {
    REELFS_CO_TRY(auto reply,
                  co_await state_->call<wire::FindRecordingsReply>(wire::Method::find_recordings, request));
    for (auto& info : *reply.mutable_recordings()) found.push_back(from_wire(std::move(info)));
    if (!reply.has_next()) co_return found;
    *request.mutable_after() = std::move(*reply.mutable_next());
  }
}

Task<bool> FileSystem::has_recordings(InodeId channel, TimeRange bytes_in) {
  RecordingsWanted wanted;
  wanted.channel = channel;
  wanted.bytes_in = bytes_in;
  auto request = find_request(wanted);
  request.set_limit(1);
  for (;;) {
    REELFS_CO_TRY(auto reply,
                  co_await state_->call<wire::FindRecordingsReply>(wire::Method::find_recordings, request));
    if (!reply.recordings().empty() || !reply.has_next()) co_return !reply.recordings().empty();
    *request.mutable_after() = std::move(*reply.mutable_next());
  }
}

Task<Recording> FileSystem::get_recording(InodeId inode) {
  RecordingsWanted wanted;
  wanted.inode = inode;
  REELFS_CO_TRY(auto found, co_await find_recordings(std::move(wanted)));
  if (found.empty()) co_return Error(Errc::not_found);
  co_return std::move(found.front());
}

Task<std::vector<TimeRange>> FileSystem::find_times(InodeId channel, std::optional<TimeRange> bytes_in) {
  std::vector<TimeRange> times;
  wire::FindTimesRequest request;
  request.set_channel(channel.value);
  if (bytes_in) set_time(*bytes_in, request);
  for (;;) {
    REELFS_CO_TRY(auto reply, co_await state_->call<wire::FindTimesReply>(wire::Method::find_times, request));
    for (const auto& range : reply.ranges()) times.push_back({range.from_ns(), range.to_ns()});
    if (!reply.has_next()) break;
    *request.mutable_after() = std::move(*reply.mutable_next());
  }
  merge(times);
  co_return times;
}

Task<std::vector<Gap>> FileSystem::list_gaps(InodeId channel) {
  const auto until = state_->deadline();
  std::vector<Gap> gaps;
  for (bool end = false; !end;) {
    wire::ListGapsRequest request;
    request.set_channel(channel.value);
    if (!gaps.empty()) request.set_after_ns(gaps.back().start_ns);
    REELFS_CO_TRY(const auto reply, co_await state_->call<wire::ListGapsReply>(wire::Method::list_gaps,
                                                                               std::move(request), until));
    for (const auto& gap : reply.gaps()) {
      gaps.push_back({gap.start_ns(), gap.end_ns(), wire::name_of(gap.cause()),
                      std::chrono::milliseconds(gap.longest_stall_ms())});
    }
    end = reply.end() || reply.gaps().empty();
  }
  co_return gaps;
}

std::vector<NodePath> FileSystem::paths() const { return state_->nodes.paths(); }

void FileSystem::note_read(const Attributes& attributes) {
  const auto wanted = state_->options.atime;
  if (wanted == Atime::of_none || (wanted == Atime::of_files && S_ISDIR(attributes.mode))) return;
  state_->read_times.note(attributes);
}

void FileSystem::note_read(const FileHandle& handle) {
  if (const auto file = state_->files.find(handle.inode())) note_read(FileTable::current(*file));
}

// ---- open files

Task<void> FileSystem::State::open_in_index(std::shared_ptr<FileState> file, Deadline until) {
  while (file->releasing) {
    REELFS_CO_TRY(co_await file->changed.wait(clock, until));
  }
  wire::OpenRequest request;
  request.set_inode(file->inode.value);
  file->open_in_index = true;  // it may be, from now on, whatever becomes of the answer
  REELFS_CO_TRY(const auto reply,
                co_await index.call<wire::AttributesReply>(wire::Method::open, std::move(request), until));
  files.note(from_wire(reply.attributes()));
  file->note_hold(reply.held(), reply.attributes().size());
  co_return ok();
}

Task<FileSystem::Opened> FileSystem::open(InodeId inode) {
  auto& state = *state_;
  const auto file = state.files.obtain(inode);
  FileUse use(state.files, state.releaser, file);
  // Also where it is open here already: what others have closed by now is seen.
  REELFS_CO_TRY(co_await state.open_in_index(file, state.deadline()));
  Opened opened;
  opened.attributes = FileTable::current(*file);
  opened.handle = state.handle_on(file);
  use.keep();
  co_return std::move(opened);
}

Task<FileSystem::Opened> FileSystem::create_file(CreateOptions options) {
  auto& state = *state_;
  const auto until = state.deadline();
  const auto told = state.releaser.told();
  auto request = create_request(options);
  request.set_open(true);
  request.set_exclusive(options.exclusive);
  REELFS_CO_TRY(const auto reply,
                co_await state.call<wire::AttributesReply>(wire::Method::create, std::move(request), until));
  const auto attributes = from_wire(reply.attributes());
  const auto file = state.files.obtain(attributes.inode);
  FileUse use(state.files, state.releaser, file);
  if (state.releaser.told() != told || file->releasing) {
    // The file may have existed, and its last handle here may have been given back meanwhile.
    REELFS_CO_TRY(co_await state.open_in_index(file, until));
  }
  file->open_in_index = true;
  file->note_hold(reply.held(), attributes.size);
  Opened opened;
  opened.attributes = state.files.note(attributes);
  opened.handle = state.handle_on(file);
  use.keep();
  co_return std::move(opened);
}

Task<std::size_t> FileSystem::append(std::shared_ptr<FileHandle> handle, Buffer bytes) {
  const auto file = std::static_pointer_cast<OpenFile>(handle)->file();
  if (!state_->files.is_leased(*file)) {
    REELFS_CO_TRY(co_await get_attributes(file->inode));
  }
  co_return co_await handle->write(FileTable::current(*file).size, std::move(bytes));
}

Task<void> FileSystem::release(std::shared_ptr<FileHandle> handle) {
  auto& state = *state_;
  const auto open_file = std::static_pointer_cast<OpenFile>(std::move(handle));
  if (!open_file->give_back()) co_return ok();
  const auto file = open_file->file();
  // The handle's use ends with this call, also where the coroutine is cancelled. Where bytes are left, the
  // index is told once the file is clean.
  const FileUse use(state.files, state.releaser, file);
  --file->uses;
  co_return co_await state.write_back->flush(file, state.deadline());
}

Task<void> FileSystem::State::flush(InodeId inode) {
  const auto file = files.find(inode);
  if (!file || file->clean()) co_return ok();
  co_return co_await write_back->flush(file, deadline());
}

Locks& FileSystem::locks() { return state_->locks; }

Task<void> FileSystem::sync() { co_return co_await state_->write_back->sync_all(state_->deadline()); }

}  // namespace reelfs::client
