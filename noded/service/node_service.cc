#include "noded/service/node_service.h"

#include <algorithm>
#include <chrono>
#include <unordered_map>
#include <utility>

#include "common/observe/log.h"
#include "common/wire/node.pb.h"
#include "common/wire/rebuild.pb.h"
#include "common/wire/record.h"
#include "noded/service/node_check.h"

namespace reelfs::noded {
namespace {

using namespace std::chrono_literals;

constexpr Duration kLongestOperation = 60s;     // a request without a deadline does not wait longer either
constexpr std::uint32_t kMaxListed = 8192;      // records in an answer: 512 KiB
constexpr std::size_t kMaxBlocksListed = 8192;  // in an answer, at most 60 bytes each
constexpr std::uint32_t kMaxReadBytes = wire::kMaxRecordPayload;

spdlog::logger& log() {
  static auto& instance = logger("noded.service");
  return instance;
}

/// Commands of the active index server, which an earlier one must not give any more.
bool is_index_command(wire::Method method) {
  return method >= wire::Method::initialise_device && method <= wire::Method::detach_device;
}

}  // namespace

NodeService::NodeService(NodeIdentity identity, const Clock& clock, BlockingPool& pool, SegmentStore& store,
                         UnfilledTable& unfilled, RecordCopier& records, SegmentCopier& copies,
                         NodeMetrics& metrics, Hooks hooks)
    : identity_(std::move(identity)),
      clock_(clock),
      pool_(pool),
      store_(store),
      unfilled_(unfilled),
      copier_(records),
      segment_copier_(copies),
      metrics_(metrics),
      hooks_(std::move(hooks)) {}

NodeService::Operation NodeService::operation_of(wire::Method method) {
  static const std::unordered_map<wire::Method, Operation> operations = {
      {wire::Method::initialise_device, &NodeService::initialise_device},
      {wire::Method::attach_device, &NodeService::attach_device},
      {wire::Method::detach_device, &NodeService::detach_device},
      {wire::Method::allocate_block, &NodeService::allocate_block},
      {wire::Method::fence_segment, &NodeService::fence_segment},
      {wire::Method::seal_segment, &NodeService::seal_segment},
      {wire::Method::free_segment, &NodeService::free_segment},
      {wire::Method::release_segment, &NodeService::release_segment},
      {wire::Method::copy_records, &NodeService::copy_records},
      {wire::Method::list_records, &NodeService::list_records},
      {wire::Method::list_blocks, &NodeService::list_blocks},
      {wire::Method::copy_segment, &NodeService::copy_segment},
      {wire::Method::rewrite_ranges, &NodeService::rewrite_ranges},
      {wire::Method::scrub_node, &NodeService::scrub_node},
      {wire::Method::append, &NodeService::append},
      {wire::Method::sync_segments, &NodeService::sync_segments},
      {wire::Method::read_record, &NodeService::read_record},
      {wire::Method::read_segment, &NodeService::read_segment},
      {wire::Method::describe_node, &NodeService::describe},
  };
  const auto found = operations.find(method);
  return found == operations.end() ? nullptr : found->second;
}

Deadline NodeService::bounded(const rpc::Request& request) const {
  return {std::min(request.deadline.at, clock_.now() + kLongestOperation)};
}

Task<rpc::Response> NodeService::handle(rpc::Request request) {
  const auto method = request.method;
  const auto operation = operation_of(method);
  if (operation == nullptr) {
    co_return Error(Errc::unsupported, "a node does not answer " + std::string(wire::to_string(method)));
  }
  // Clients may go on under an older epoch: their grants' generations say whether they still may, and data is
  // to keep flowing while the index fails over.
  if (request.epoch && !unfilled_.observe_epoch(request.epoch) && is_index_command(method)) {
    log().warn("command of an earlier epoch refused method={} peer={} epoch={} known={}",
               wire::to_string(method), request.peer, request.epoch.value, unfilled_.epoch().value);
    co_return Error(Errc::stale_epoch, "epoch " + std::to_string(request.epoch.value) + " is over, this is " +
                                           std::to_string(unfilled_.epoch().value));
  }
  const auto peer = request.peer;
  const auto arrived = clock_.now();
  auto response = co_await (this->*operation)(std::move(request));
  metrics_.served(method, clock_.now() - arrived, response.has_error());
  if (!response) {
    const auto code = response.error().code();
    const bool usual = code == Errc::cancelled || code == Errc::stale_generation || code == Errc::not_found;
    log().log(usual ? spdlog::level::info : spdlog::level::warn, "refused method={} peer={} why=\"{}\"",
              wire::to_string(method), peer, response.error().describe());
  }
  co_return std::move(response);
}

Result<void> NodeService::check_cluster(const std::string& raw) const {
  REELFS_TRY(const auto cluster, Uuid::from_bytes(raw));
  if (cluster == identity_.cluster) return ok();
  return Error(Errc::not_permitted, "this node belongs to cluster " + identity_.cluster.to_string());
}

Task<rpc::Response> NodeService::attach_device(rpc::Request request) {
  REELFS_CO_TRY(auto command, request.parse<wire::AttachDeviceRequest>());
  REELFS_CO_TRY(check_cluster(command.cluster()));
  wire::AttachDeviceReply reply;
  REELFS_CO_TRY(*reply.mutable_device(), co_await hooks_.attach_device(std::move(command), bounded(request)));
  co_return rpc::Response(reply);
}

Task<rpc::Response> NodeService::detach_device(rpc::Request request) {
  REELFS_CO_TRY(auto command, request.parse<wire::DetachDeviceRequest>());
  REELFS_CO_TRY(check_cluster(command.cluster()));
  wire::DetachDeviceReply reply;
  REELFS_CO_TRY(*reply.mutable_device(), co_await hooks_.detach_device(std::move(command), bounded(request)));
  co_return rpc::Response(reply);
}

Task<rpc::Response> NodeService::initialise_device(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::InitialiseDeviceRequest>());
  REELFS_CO_TRY(check_cluster(command.cluster()));
  NewDevice device;
  device.path = command.path();
  REELFS_CO_TRY(device.uuid, Uuid::from_bytes(command.uuid()));
  device.device = DeviceId(command.device());
  device.block_bytes = command.block_bytes();
  if (!device.device || device.uuid.is_nil())
    co_return Error(Errc::invalid, "a device needs an id and a UUID");
  REELFS_CO_TRY(co_await hooks_.initialise_device(std::move(device), bounded(request)));
  co_return rpc::Response(wire::Empty());
}

Task<rpc::Response> NodeService::allocate_block(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::AllocateBlockRequest>());
  const SegmentId segment(command.segment());
  const Generation generation(command.generation());
  const InodeId channel(command.channel());
  auto allocated = co_await store_.allocate(segment, generation, channel);
  if (!allocated && allocated.error().code() == Errc::no_space) {
    co_await hooks_.look_for_devices();
    allocated = co_await store_.allocate(segment, generation, channel);
  }
  REELFS_CO_TRY(const auto address, std::move(allocated));
  wire::AllocateBlockReply reply;
  reply.set_device(address.device.value);
  reply.set_block(address.block);
  co_return rpc::Response(reply);
}

Task<rpc::Response> NodeService::fence_segment(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::FenceSegmentRequest>());
  REELFS_CO_TRY(const auto fenced, co_await store_.fence(SegmentId(command.segment()),
                                                         Generation(command.generation()), bounded(request)));
  wire::FenceSegmentReply reply;
  reply.set_length(fenced.length);
  reply.set_device(fenced.address.device.value);
  reply.set_block(fenced.address.block);
  reply.set_torn(fenced.torn);
  co_return rpc::Response(reply);
}

Task<rpc::Response> NodeService::seal_segment(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::SealSegmentRequest>());
  const auto after = command.reopen() ? SegmentStore::After::reopened : SegmentStore::After::sealed;
  REELFS_CO_TRY(co_await store_.cut(SegmentId(command.segment()), Generation(command.generation()),
                                    command.length(), after, bounded(request)));
  co_return rpc::Response(wire::Empty());
}

Task<rpc::Response> NodeService::free_segment(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::FreeSegmentRequest>());
  REELFS_CO_TRY(
      co_await store_.free(SegmentId(command.segment()), Generation(command.generation()), bounded(request)));
  co_return rpc::Response(wire::Empty());
}

Task<rpc::Response> NodeService::release_segment(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::ReleaseSegmentRequest>());
  REELFS_CO_TRY(store_.release(SegmentId(command.segment()), Generation(command.generation())));
  co_return rpc::Response(wire::Empty());
}

Task<rpc::Response> NodeService::copy_records(rpc::Request request) {
  REELFS_CO_TRY(auto command, request.parse<wire::CopyRecordsRequest>());
  REELFS_CO_TRY(const auto reply,
                co_await copier_.copy(std::move(command), unfilled_.epoch(), bounded(request)));
  co_return rpc::Response(reply);
}

Task<rpc::Response> NodeService::list_records(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::ListRecordsRequest>());
  const auto most = command.most() == 0 ? kMaxListed : std::min(command.most(), kMaxListed);
  REELFS_CO_TRY(const auto list,
                co_await store_.list_records(SegmentId(command.segment()), command.offset(), most));
  wire::ListRecordsReply reply;
  reply.set_next(list.next);
  reply.set_unreadable(list.unreadable);
  for (const auto& [offset, header] : list.records) {
    auto& record = *reply.add_records();
    record.set_record_offset(offset);
    record.set_payload_bytes(header.payload_bytes);
    record.set_generation(header.generation);
    record.set_inode(header.inode);
    record.set_file_offset(header.file_offset);
    record.set_sequence(header.sequence);
    record.set_written_at_ns(header.written_at_ns);
  }
  co_return rpc::Response(reply);
}

Task<rpc::Response> NodeService::list_blocks(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::ListBlocksRequest>());
  auto blocks = store_.list(SegmentId(command.from_segment()), kMaxBlocksListed + 1);
  wire::ListBlocksReply reply;
  reply.set_epoch(unfilled_.epoch().value);
  if (blocks.size() > kMaxBlocksListed) {
    reply.set_next_segment(blocks.back().segment.value);
    blocks.pop_back();
  }
  for (const auto& found : blocks) {
    auto& block = *reply.add_blocks();
    block.set_device(found.address.device.value);
    block.set_block(found.address.block);
    block.set_segment(found.segment.value);
    block.set_generation(found.slot.descriptor.generation);
    block.set_length(found.slot.end);
    block.set_sealed(found.slot.descriptor.state == BlockState::sealed);
    block.set_channel(found.slot.descriptor.channel);
  }
  co_return rpc::Response(reply);
}

Task<rpc::Response> NodeService::copy_segment(rpc::Request request) {
  REELFS_CO_TRY(auto command, request.parse<wire::CopySegmentRequest>());
  REELFS_CO_TRY(const auto reply,
                co_await segment_copier_.copy(std::move(command), unfilled_.epoch(), bounded(request)));
  metrics_.copied(reply.copied_bytes());
  co_return rpc::Response(reply);
}

Task<rpc::Response> NodeService::read_segment(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::ReadSegmentRequest>());
  REELFS_CO_TRY(auto piece,
                co_await store_.read_raw(SegmentId(command.segment()), command.offset(), command.length()));
  metrics_.copied_from(piece.bytes->size());
  wire::ReadSegmentReply reply;
  reply.set_valid(piece.valid);
  rpc::Response response(reply);
  response.payload_bytes = piece.bytes->size();
  response.payload = std::move(piece.bytes);
  co_return std::move(response);
}

Task<rpc::Response> NodeService::rewrite_ranges(rpc::Request request) {
  REELFS_CO_TRY(auto command, request.parse<wire::RewriteRangesRequest>());
  if (command.sources().empty()) {
    REELFS_CO_TRY(auto raw, co_await hooks_.look_at_ranges(std::move(command)));
    rpc::Response response(raw.reply);
    response.payload_bytes = raw.bytes->size();
    response.payload = std::move(raw.bytes);
    co_return std::move(response);
  }
  REELFS_CO_TRY(const auto reply, co_await hooks_.rewrite_ranges(std::move(command), bounded(request)));
  metrics_.rewritten(reply.written_bytes());
  co_return rpc::Response(reply);
}

Task<rpc::Response> NodeService::scrub_node(rpc::Request request) {
  REELFS_CO_TRY(request.parse<wire::ScrubNodeRequest>());
  hooks_.order_scrub();
  co_return rpc::Response(wire::Empty());
}

Task<rpc::Response> NodeService::append(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::AppendRequest>());
  const auto bytes = request.payload.size();
  REELFS_CO_TRY(const auto end,
                co_await store_.append(SegmentId(command.segment()), Generation(command.generation()),
                                       command.offset(), std::move(request.payload)));
  metrics_.appended(bytes);
  wire::AppendReply reply;
  reply.set_end(end);
  co_return rpc::Response(reply);
}

Task<rpc::Response> NodeService::sync_segments(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::SyncSegmentsRequest>());
  if (command.lengths_size() != 0 && command.lengths_size() != command.segments_size())
    co_return Error(Errc::invalid, "a length for each segment, or none");
  std::vector<SegmentStore::Flushed> segments;
  for (int i = 0; i < command.segments_size(); ++i) {
    SegmentStore::Flushed flushed;
    flushed.segment = SegmentId(command.segments(i));
    if (command.lengths_size() != 0) flushed.length = command.lengths(i);
    segments.push_back(flushed);
  }
  REELFS_CO_TRY(co_await store_.sync(std::move(segments)));
  co_return rpc::Response(wire::Empty());
}

Task<rpc::Response> NodeService::read_record(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::ReadRecordRequest>());
  SegmentStore::RecordRange range;
  range.segment = SegmentId(command.segment());
  range.record_offset = command.record_offset();
  range.payload_offset = command.payload_offset();
  range.length = std::min(command.length(), kMaxReadBytes);
  REELFS_CO_TRY(auto piece, co_await store_.read(range));
  metrics_.read(piece.size);
  wire::ReadRecordReply reply;
  reply.set_header_bytes(piece.header_bytes);
  reply.set_first_chunk(piece.first_chunk);
  rpc::Response response(reply);
  response.payload = std::move(piece.bytes);
  response.payload_offset = piece.begin;
  response.payload_bytes = piece.size;
  co_return std::move(response);
}

Task<rpc::Response> NodeService::describe(rpc::Request request) {
  REELFS_CO_TRY(const auto command, request.parse<wire::DescribeNodeRequest>());
  if (std::exchange(describing_, true)) co_return Error(Errc::busy, "somebody else has the node described");
  struct Described {
    bool& describing;
    ~Described() { describing = false; }
  };
  const Described at_the_end{describing_};
  REELFS_CO_TRY(const auto reply, co_await describe_now(command.check()));
  co_return rpc::Response(reply);
}

Task<wire::DescribeNodeReply> NodeService::describe_now(bool check) {
  auto look = [order = hooks_.to_be_described(), check]() -> Result<wire::DescribeNodeReply> {
    const auto areas = MappedAreas::attach(order);
    auto reply = describe_node(order, areas);
    if (!check) return reply;
    for (auto& fault : check_areas(areas)) reply.add_faults(std::move(fault));
    return reply;
  };
  REELFS_CO_TRY(auto reply, co_await pool_.run(std::move(look)));
  reply.set_node_name(identity_.node_name);
  reply.set_worker(identity_.worker.value);
  if (!check) co_return std::move(reply);
  const auto devices = store_.devices();
  for (const auto& device : devices) {
    if (!device->usable()) continue;
    auto faults = co_await check_device(device);
    if (!faults && !device->usable()) continue;  // it says so itself
    REELFS_CO_TRY(auto found, std::move(faults));
    for (auto& fault : found) reply.add_faults(std::move(fault));
  }
  co_return std::move(reply);
}

}  // namespace reelfs::noded
