#include "job/transfer_message.h"

#include <zstd.h>

#include <algorithm>

#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr uint8_t kCodingRaw = 0;
constexpr uint8_t kCodingZstd = 1;
constexpr size_t kMaxErrorTextBytes = 4096;

const char* codeName(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
      return "invalid argument";
    case Code::kIo:
      return "input/output error";
    case Code::kNoSpace:
      return "no space left";
    case Code::kNotFound:
      return "not found";
    case Code::kCorrupt:
      return "corrupt data";
    case Code::kTruncated:
      return "truncated stream";
    case Code::kLimit:
      return "limit exceeded";
    case Code::kProtocol:
      return "unexpected message";
    case Code::kUnsupported:
      return "not supported";
    case Code::kMismatch:
      return "digest mismatch";
    case Code::kChanged:
      return "file changed";
    case Code::kUnsafePath:
      return "unsafe path";
    case Code::kPeer:
      return "peer failed";
    case Code::kCancelled:
      return "cancelled";
  }
  return "unknown failure";
}

}  // namespace

Packer::Packer(int zstdLevel) : context_(ZSTD_createCCtx()), zstdLevel_(zstdLevel) {}

Packer::~Packer() {
  ZSTD_freeCCtx(context_);
}

Status Packer::pack(Bytes& output, ByteSpan raw) {
  if (raw.size() > kMaxPackedBytes) return Error{Code::kLimit, "packed message", 0};
  Writer writer(output);
  writer.varint(raw.size());
  buffer_.resize(ZSTD_compressBound(raw.size()));
  const size_t packed = context_ == nullptr ? raw.size()
                                            : ZSTD_compressCCtx(context_, buffer_.data(), buffer_.size(), raw.data(),
                                                                raw.size(), zstdLevel_);
  if (context_ != nullptr && !ZSTD_isError(packed) && packed < raw.size()) {
    writer.u8(kCodingZstd);
    writer.raw(ByteSpan(buffer_).first(packed));
  } else {
    writer.u8(kCodingRaw);
    writer.raw(raw);
  }
  return {};
}

Status Packer::pack(Bytes& output, ByteSpan raw, LiteralStreamWriter& stream) {
  if (raw.size() > kMaxPackedBytes) return Error{Code::kLimit, "packed message", 0};
  DH_TRY(const LiteralStreamWriter::Piece piece, stream.compress(raw));
  Writer writer(output);
  writer.varint(raw.size());
  writer.u8(static_cast<uint8_t>(piece.coding));
  writer.raw(piece.bytes);
  return {};
}

Unpacker::Unpacker() : context_(ZSTD_createDCtx()) {}

Unpacker::~Unpacker() {
  ZSTD_freeDCtx(context_);
}

Result<ByteSpan> Unpacker::unpack(Reader& reader) {
  DH_TRY(const uint64_t rawBytes, reader.varint(kMaxPackedBytes));
  DH_TRY(const uint8_t coding, reader.u8());
  DH_TRY(const ByteSpan packed, reader.take(reader.remaining()));
  if (coding == kCodingRaw) {
    if (packed.size() != rawBytes) return Error{Code::kCorrupt, "packed message", 0};
    return packed;
  }
  if (coding != kCodingZstd || context_ == nullptr) return Error{Code::kUnsupported, "coding of a packed message", 0};
  buffer_.resize(static_cast<size_t>(rawBytes));
  const size_t got = ZSTD_decompressDCtx(context_, buffer_.data(), buffer_.size(), packed.data(), packed.size());
  if (ZSTD_isError(got) || got != rawBytes) return Error{Code::kCorrupt, "packed message", 0};
  return ByteSpan(buffer_);
}

Result<ByteSpan> Unpacker::unpack(Reader& reader, LiteralStreamReader& stream) {
  Reader ahead = reader;
  DH_TRY(const uint64_t rawBytes, ahead.varint(kMaxPackedBytes));
  DH_TRY(const uint8_t coding, ahead.u8());
  if (!isOfLiteralStream(coding)) return unpack(reader);
  reader = ahead;
  DH_TRY(const ByteSpan packed, reader.take(reader.remaining()));
  DH_CHECK(stream.decompress(coding, packed, rawBytes, buffer_));
  return ByteSpan(buffer_);
}

Bytes encodeError(const Error& error) {
  Bytes payload;
  Writer writer(payload);
  writer.u8(static_cast<uint8_t>(error.code));
  writer.varint(static_cast<uint64_t>(std::max(error.sysErrno, 0)));
  const size_t length = std::min(error.context.size(), kMaxErrorTextBytes);
  writer.bytes({reinterpret_cast<const uint8_t*>(error.context.data()), length});
  return payload;
}

Error decodeError(ByteSpan payload) {
  Reader reader(payload);
  const auto code = reader.u8();
  const auto sysErrno = reader.varint(UINT16_MAX);
  const auto text = reader.bytes(kMaxErrorTextBytes);
  if (!code.ok() || !sysErrno.ok() || !text.ok() || !reader.expectEnd().ok()) {
    return Error{Code::kCorrupt, "the peer's error message", 0};
  }
  Error error{Code::kPeer, codeName(static_cast<Code>(code.value())), static_cast<int>(sysErrno.value())};
  error.context += ": ";
  for (const uint8_t byte : text.value()) {
    error.context += byte < 0x20 || byte == 0x7f ? '?' : static_cast<char>(byte);
  }
  return error;
}

}  // namespace deltahop
