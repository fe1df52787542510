#include "client/writer.h"

#include <unordered_map>
#include <utility>

#include <boost/asio/io_context.hpp>

#include "client/writer/channel.h"
#include "client/writer/syncer.h"
#include "common/wire/record.h"

namespace reelfs::client {

struct Writer::State {
  State(asio::io_context& loop, const Clock& time, IndexClient& to_index, NodePool& to_nodes,
        WriterOptions chosen)
      : context(loop),
        clock(time),
        index(to_index),
        nodes(to_nodes),
        options(chosen),
        syncer(loop, time, to_index, to_nodes, Syncer::Options()) {}

  asio::io_context& context;
  const Clock& clock;
  IndexClient& index;
  NodePool& nodes;
  const WriterOptions options;
  Syncer syncer;
  std::unordered_map<InodeId, std::unique_ptr<ChannelWriter>> channels;
  bool stopping = false;
};

Writer::Writer(asio::io_context& context, const Clock& clock, IndexClient& index, NodePool& nodes,
               WriterOptions options)
    : state_(std::make_unique<State>(context, clock, index, nodes, options)) {
  state_->syncer.on_sick_copy([state = state_.get()](SegmentId segment, NodeId node, const Error& why) {
    for (auto& [channel, writer] : state->channels) writer->copy_is_sick(segment, node, why);
  });
}

Writer::~Writer() = default;

Task<Placed> Writer::append(InodeId channel, Piece piece) {
  if (state_->stopping) co_return Error(Errc::cancelled, "the writer was stopped");
  if (!piece.bytes || piece.bytes->empty() || piece.bytes->size() > wire::kMaxRecordPayload) {
    co_return Error(Errc::invalid, "a piece is 1 byte to 1 MiB");
  }
  auto& writer = state_->channels[channel];
  if (!writer) {
    writer = std::make_unique<ChannelWriter>(state_->context, state_->clock, state_->index, state_->nodes,
                                             state_->syncer, channel, state_->options);
  }
  co_return co_await writer->append(std::move(piece));
}

Task<void> Writer::sync(std::vector<SegmentId> segments) {
  const auto deadline = Deadline::after(state_->clock, state_->options.timeout);
  co_return co_await state_->syncer.sync(std::move(segments), deadline);
}

asio::awaitable<void> Writer::stop() {
  state_->stopping = true;
  for (auto& [channel, writer] : state_->channels) writer->close();
  for (auto& [channel, writer] : state_->channels) co_await writer->stop();
  co_await state_->syncer.stop();
}

}  // namespace reelfs::client
