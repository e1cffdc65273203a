// The one bounded reader: every number and length that comes from outside is read here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"

namespace deltahop {

/// Reads little-endian numbers and byte runs from a span that it does not own. Errors: kTruncated when the span ends
/// too early, kCorrupt for a varint that is not minimal or above 64 bits, kLimit for a value above the caller's bound.
/// After an error the position is unspecified.
class Reader {
 public:
  explicit Reader(ByteSpan input) : input_(input) {}

  Result<uint8_t> u8();
  Result<uint16_t> u16();
  Result<uint32_t> u32();
  Result<uint64_t> u64();
  /// Unsigned LEB128, minimal, at most `max`.
  Result<uint64_t> varint(uint64_t max = UINT64_MAX);
  /// Exactly `length` bytes, as a view.
  Result<ByteSpan> take(size_t length);
  /// varint length (at most `maxLength`) and that many bytes, as a view.
  Result<ByteSpan> bytes(size_t maxLength);
  size_t remaining() const { return input_.size() - position_; }
  size_t position() const { return position_; }
  /// kCorrupt if anything is left.
  Status expectEnd() const;

 private:
  ByteSpan input_;
  size_t position_ = 0;
};

}  // namespace deltahop
