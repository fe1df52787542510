#pragma once

#include <functional>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>

#include "common/async/task.h"
#include "common/base/clock.h"
#include "common/rpc/server.h"
#include "common/wire/method.h"

namespace prometheus {
class Registry;
}

namespace reelfs::indexd {

/// Which function answers which method.
///
///     dispatcher.add(wire::Method::lookup, names_, &NameService::lookup);
///
/// A function takes the request message and returns a Task of the reply message, or of an rpc::Response that
/// is serialised already; with a second parameter `std::uint64_t connection` it learns on which connection it
/// was asked.
class Dispatcher {
 public:
  Dispatcher(const Clock& clock, prometheus::Registry& registry);

  template <class Service, class Reply, class Message>
  void add(wire::Method method, Service& service, Task<Reply> (Service::*function)(Message)) {
    add_handler(method, [&service, function](rpc::Request request) {
      return answer<Service, Reply, Message>(service, function, std::move(request));
    });
  }
  template <class Service, class Reply, class Message>
  void add(wire::Method method, Service& service, Task<Reply> (Service::*function)(Message, std::uint64_t)) {
    add_handler(method, [&service, function](rpc::Request request) {
      return answer<Service, Reply, Message>(service, function, std::move(request));
    });
  }

  /// @errors unsupported: no such method here
  Task<rpc::Response> dispatch(rpc::Request request) const;

 private:
  struct Entry {
    rpc::Server::Handler handler;
    prometheus::Histogram& seconds;
    prometheus::Counter& refused;
  };
  void add_handler(wire::Method method, rpc::Server::Handler handler);
  template <class Service, class Reply, class Message, class Function>
  static Task<rpc::Response> answer(Service& service, Function function, rpc::Request request) {
    REELFS_CO_TRY(auto message, request.parse<Message>());
    if constexpr (std::is_invocable_v<Function, Service&, Message>) {
      REELFS_CO_TRY(auto reply, co_await (service.*function)(std::move(message)));
      co_return as_response(std::move(reply));
    } else {
      REELFS_CO_TRY(auto reply, co_await (service.*function)(std::move(message), request.connection));
      co_return as_response(std::move(reply));
    }
  }
  static rpc::Response as_response(rpc::Response response) { return response; }
  static rpc::Response as_response(const google::protobuf::MessageLite& reply) {
    return rpc::Response(reply);
  }

  const Clock& clock_;
  prometheus::Family<prometheus::Histogram>& seconds_;
  prometheus::Family<prometheus::Counter>& refused_;
  std::unordered_map<wire::Method, Entry> entries_;
};

}  // namespace reelfs::indexd
