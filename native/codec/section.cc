#include "codec/section.h"

#include <zstd.h>

#include <algorithm>
#include <bit>
#include <string>

#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr uint8_t kStored = 0;
constexpr uint8_t kZstd = 1;
constexpr uint8_t kZstdWithPrefix = 2;
// Below this a zstd frame cannot win.
constexpr size_t kMinCompressBytes = 24;
// Beyond this the tables of a level are too small for the prefix to be found in (facts of the format's design).
constexpr size_t kDefaultTablesBytes = 512 << 10;

}  // namespace

struct SectionWriter::Compressor {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  int level = 1;
  ~Compressor() { ZSTD_freeCCtx(context); }
};

SectionWriter::SectionWriter(int zstdLevel) : compressor_(std::make_unique<Compressor>()) {
  setLevel(zstdLevel);
}
SectionWriter::~SectionWriter() = default;
SectionWriter::SectionWriter(SectionWriter&&) noexcept = default;

void SectionWriter::setLevel(int zstdLevel) {
  compressor_->level = std::clamp(zstdLevel, 1, ZSTD_maxCLevel());
}

Result<size_t> SectionWriter::write(Bytes& output, ByteSpan raw, ByteSpan prefix) {
  Writer writer(output);
  if (raw.size() >= kMinCompressBytes) {
    ZSTD_CCtx* context = compressor_->context;
    if (context == nullptr) return Error{Code::kLimit, "no memory for the compressor"};
    ZSTD_CCtx_reset(context, ZSTD_reset_session_and_parameters);
    ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, compressor_->level);
    const size_t together = raw.size() + prefix.size();
    if (!prefix.empty() && together > kDefaultTablesBytes) {
      const int log = std::min(static_cast<int>(std::bit_width(together - 1)), 24);
      ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, log);
      ZSTD_CCtx_setParameter(context, ZSTD_c_hashLog, log - 1);
      ZSTD_CCtx_setParameter(context, ZSTD_c_chainLog, log - 1);
    }
    if (!prefix.empty()) ZSTD_CCtx_refPrefix(context, prefix.data(), prefix.size());
    encoded_.resize(ZSTD_compressBound(raw.size()));
    const size_t bytes = ZSTD_compress2(context, encoded_.data(), encoded_.size(), raw.data(), raw.size());
    if (ZSTD_isError(bytes)) return Error{Code::kLimit, std::string("compress: ") + ZSTD_getErrorName(bytes)};
    if (bytes < raw.size() - raw.size() / 64) {
      writer.u8(prefix.empty() ? kZstd : kZstdWithPrefix);
      writer.varint(raw.size());
      writer.bytes({encoded_.data(), bytes});
      return bytes;
    }
  }
  writer.u8(kStored);
  writer.bytes(raw);
  return raw.size();
}

Result<size_t> SectionWriter::write(Bytes& output, ByteSpan raw, LiteralStreamWriter& stream) {
  DH_TRY(const LiteralStreamWriter::Piece piece, stream.compress(raw));
  Writer writer(output);
  writer.u8(static_cast<uint8_t>(piece.coding));
  if (piece.coding != LiteralCoding::kStored) writer.varint(raw.size());
  writer.bytes(piece.bytes);
  return piece.bytes.size();
}

struct SectionReader::Decompressor {
  ZSTD_DCtx* context = ZSTD_createDCtx();
  ~Decompressor() { ZSTD_freeDCtx(context); }
};

SectionReader::SectionReader() : decompressor_(std::make_unique<Decompressor>()) {}
SectionReader::~SectionReader() = default;
SectionReader::SectionReader(SectionReader&&) noexcept = default;

Status SectionReader::read(Reader& reader, size_t maxBytes, Bytes& raw, ByteSpan prefix) {
  DH_TRY(const uint8_t coding, reader.u8());
  if (coding == kStored) {
    DH_TRY(const ByteSpan bytes, reader.bytes(maxBytes));
    raw.assign(bytes.begin(), bytes.end());
    return {};
  }
  if (coding != kZstd && (coding != kZstdWithPrefix || prefix.empty())) {
    return Error{Code::kUnsupported, "section of an unknown coding"};
  }
  DH_TRY(const uint64_t rawBytes, reader.varint(maxBytes));
  DH_TRY(const ByteSpan encoded, reader.bytes(maxBytes));
  ZSTD_DCtx* context = decompressor_->context;
  if (context == nullptr) return Error{Code::kLimit, "no memory for the decompressor"};
  ZSTD_DCtx_reset(context, ZSTD_reset_session_only);
  if (coding == kZstdWithPrefix) ZSTD_DCtx_refPrefix(context, prefix.data(), prefix.size());
  raw.resize(rawBytes);
  const size_t got = ZSTD_decompressDCtx(context, raw.data(), raw.size(), encoded.data(), encoded.size());
  if (ZSTD_isError(got)) return Error{Code::kCorrupt, std::string("decompress: ") + ZSTD_getErrorName(got)};
  if (got != rawBytes) return Error{Code::kCorrupt, "section of another length than announced"};
  return {};
}

Status SectionReader::read(Reader& reader, size_t maxBytes, Bytes& raw, LiteralStreamReader& stream) {
  Reader ahead = reader;
  DH_TRY(const uint8_t coding, ahead.u8());
  if (!isOfLiteralStream(coding)) return read(reader, maxBytes, raw);
  reader = ahead;
  DH_TRY(const uint64_t rawBytes, reader.varint(maxBytes));
  DH_TRY(const ByteSpan encoded, reader.bytes(maxBytes + maxBytes / 64));
  return stream.decompress(coding, encoded, rawBytes, raw);
}

}  // namespace deltahop
