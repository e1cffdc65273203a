// The mirror of wire/reader.h.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace deltahop {

/// Appends little-endian numbers and byte runs to a buffer that it does not own.
class Writer {
 public:
  explicit Writer(Bytes& output) : output_(output) {}

  void u8(uint8_t value) { output_.push_back(value); }
  void u16(uint16_t value);
  void u32(uint32_t value);
  void u64(uint64_t value);
  void varint(uint64_t value);
  /// The bytes as they are; Reader::take reads them.
  void raw(ByteSpan value);
  /// varint length and the bytes; Reader::bytes reads them.
  void bytes(ByteSpan value);

 private:
  Bytes& output_;
};

/// Bytes that Writer::varint takes for a value (1 to 10).
size_t varintBytes(uint64_t value);

}  // namespace deltahop
