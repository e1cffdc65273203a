#include "wire/reader.h"

namespace deltahop {
namespace {

template <typename Number>
Result<Number> readNumber(Reader& reader) {
  DH_TRY(const ByteSpan bytes, reader.take(sizeof(Number)));
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(Number); ++i) value |= uint64_t{bytes[i]} << (8 * i);
  return static_cast<Number>(value);
}

}  // namespace

Result<uint8_t> Reader::u8() {
  return readNumber<uint8_t>(*this);
}
Result<uint16_t> Reader::u16() {
  return readNumber<uint16_t>(*this);
}
Result<uint32_t> Reader::u32() {
  return readNumber<uint32_t>(*this);
}
Result<uint64_t> Reader::u64() {
  return readNumber<uint64_t>(*this);
}

Result<uint64_t> Reader::varint(uint64_t max) {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 70; shift += 7) {
    if (remaining() == 0) return Error{Code::kTruncated, "number cut short"};
    const uint8_t byte = input_[position_++];
    // The tenth byte holds bit 63 alone.
    if (shift == 63 && byte > 1) return Error{Code::kCorrupt, "number above 64 bits"};
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte & 0x80) continue;
    if (byte == 0 && shift > 0) return Error{Code::kCorrupt, "number not in its shortest form"};
    if (value > max) return Error{Code::kLimit, "number above its bound"};
    return value;
  }
  return Error{Code::kCorrupt, "number above 64 bits"};
}

Result<ByteSpan> Reader::take(size_t length) {
  if (length > remaining()) return Error{Code::kTruncated, "bytes cut short"};
  const ByteSpan bytes = input_.subspan(position_, length);
  position_ += length;
  return bytes;
}

Result<ByteSpan> Reader::bytes(size_t maxLength) {
  DH_TRY(const uint64_t length, varint(maxLength));
  return take(length);
}

Status Reader::expectEnd() const {
  if (remaining() > 0) return Error{Code::kCorrupt, "bytes after the end"};
  return {};
}

}  // namespace deltahop
