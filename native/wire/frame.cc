#include "wire/frame.h"

#include <utility>

#include "wire/reader.h"
#include "wire/writer.h"

namespace deltahop {

void FrameReader::feed(ByteSpan input) {
  // Taken frames are dropped here, once per buffer, not once per frame.
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(position_));
  position_ = 0;
  pending_.insert(pending_.end(), input.begin(), input.end());
}

Result<std::optional<Frame>> FrameReader::next() {
  const ByteSpan available = ByteSpan(pending_).subspan(position_);
  if (available.size() < 4) return std::optional<Frame>();
  Reader reader(available);
  DH_TRY(const uint32_t payloadBytes, reader.u32());
  if (payloadBytes > maxPayloadBytes_) return Error{Code::kLimit, "frame larger than allowed"};
  if (available.size() < kFrameHeaderBytes + payloadBytes) return std::optional<Frame>();
  DH_TRY(const uint8_t type, reader.u8());
  DH_TRY(const ByteSpan payload, reader.take(payloadBytes));
  position_ += kFrameHeaderBytes + payloadBytes;
  return std::optional<Frame>(Frame{type, Bytes(payload.begin(), payload.end())});
}

Status FrameReader::expectEnd() const {
  if (position_ < pending_.size()) return Error{Code::kTruncated, "stream ended inside a frame"};
  return {};
}

Status writeFrame(Bytes& output, uint8_t type, ByteSpan payload) {
  if (payload.size() > kMaxFramePayloadBytes) return Error{Code::kLimit, "frame larger than allowed"};
  output.reserve(output.size() + kFrameHeaderBytes + payload.size());
  Writer writer(output);
  writer.u32(static_cast<uint32_t>(payload.size()));
  writer.u8(type);
  writer.raw(payload);
  return {};
}

}  // namespace deltahop
