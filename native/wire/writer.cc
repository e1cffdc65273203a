#include "wire/writer.h"

namespace deltahop {
namespace {

void append(Bytes& output, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) output.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

}  // namespace

void Writer::u16(uint16_t value) {
  append(output_, value, 2);
}
void Writer::u32(uint32_t value) {
  append(output_, value, 4);
}
void Writer::u64(uint64_t value) {
  append(output_, value, 8);
}

void Writer::varint(uint64_t value) {
  while (value >= 0x80) {
    output_.push_back(static_cast<uint8_t>(value | 0x80));
    value >>= 7;
  }
  output_.push_back(static_cast<uint8_t>(value));
}

void Writer::raw(ByteSpan value) {
  output_.insert(output_.end(), value.begin(), value.end());
}

void Writer::bytes(ByteSpan value) {
  varint(value.size());
  raw(value);
}

size_t varintBytes(uint64_t value) {
  size_t bytes = 1;
  while (value >= 0x80) {
    value >>= 7;
    ++bytes;
  }
  return bytes;
}

}  // namespace deltahop
