// Frames: how messages lie in a byte stream. u32 payload bytes, u8 type, payload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/bytes.h"
#include "base/result.h"

namespace deltahop {

inline constexpr size_t kFrameHeaderBytes = 5;
inline constexpr size_t kMaxFramePayloadBytes = 1 << 20;

struct Frame {
  uint8_t type = 0;
  Bytes payload;
};

/// Cuts a byte stream of any split into frames. Usage: feed() a buffer, then next() until it has none.
class FrameReader {
 public:
  explicit FrameReader(size_t maxPayloadBytes = kMaxFramePayloadBytes) : maxPayloadBytes_(maxPayloadBytes) {}

  void feed(ByteSpan input);
  /// The next whole frame, or nothing yet. kLimit as soon as a header announces more than the bound; the reader is of
  /// no use after an error.
  Result<std::optional<Frame>> next();
  /// To be called where the stream ended: kTruncated if that is inside a frame.
  Status expectEnd() const;

 private:
  size_t maxPayloadBytes_;
  Bytes pending_;
  size_t position_ = 0;
};

/// Appends one frame. The payload must not be above kMaxFramePayloadBytes (the caller's fault: kLimit).
Status writeFrame(Bytes& output, uint8_t type, ByteSpan payload);

}  // namespace deltahop
