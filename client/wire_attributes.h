#pragma once

#include "client/attributes.h"
#include "client/extent_cache.h"
#include "client/recordings.h"
#include "common/base/error.h"

namespace reelfs::wire {
class Attributes;
class ErrorReply;
class Extent;
class RecordingInfo;
class SetAttributesRequest;
}  // namespace reelfs::wire

namespace reelfs::client {

Attributes from_wire(const wire::Attributes& message);
Extent from_wire(const wire::Extent& message);
Recording from_wire(wire::RecordingInfo message);
Error from_wire(const wire::ErrorReply& message);
void to_wire(const AttributeChanges& changes, wire::SetAttributesRequest& message);

}  // namespace reelfs::client
