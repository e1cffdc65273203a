#include "codec/literal_stream.h"

#include <zstd.h>

#include <algorithm>
#include <string>

namespace deltahop {
namespace {

// Below this a piece is not worth its header.
constexpr size_t kMinPieceBytes = 24;
// A new level costs what was in view.
constexpr uint64_t kMinStreamBytes = 2 << 20;

}  // namespace

bool isOfLiteralStream(uint8_t coding) {
  return coding == static_cast<uint8_t>(LiteralCoding::kGoesOn) ||
         coding == static_cast<uint8_t>(LiteralCoding::kBegins);
}

struct LiteralStreamWriter::Compressor {
  ZSTD_CCtx* stream = ZSTD_createCCtx();
  ~Compressor() { ZSTD_freeCCtx(stream); }
};

LiteralStreamWriter::LiteralStreamWriter(int zstdLevel) : level_(0), wantedLevel_(0) {
  setLevel(zstdLevel);
}
LiteralStreamWriter::~LiteralStreamWriter() = default;

void LiteralStreamWriter::setLevel(int zstdLevel) {
  wantedLevel_ = std::clamp(zstdLevel, 1, ZSTD_maxCLevel());
}

Result<LiteralStreamWriter::Piece> LiteralStreamWriter::compress(ByteSpan raw) {
  if (raw.size() < kMinPieceBytes) return Piece{LiteralCoding::kStored, raw};
  if (compressor_ == nullptr) {
    compressor_ = std::make_unique<Compressor>();
    if (compressor_->stream == nullptr) return Error{Code::kLimit, "no memory for the compressor"};
  }
  ZSTD_CCtx* stream = compressor_->stream;
  if (!begun_ || (level_ != wantedLevel_ && rawBytes_ >= kMinStreamBytes)) {
    level_ = wantedLevel_;
    begun_ = false;
    rawBytes_ = 0;
    ZSTD_CCtx_reset(stream, ZSTD_reset_session_and_parameters);
    ZSTD_CCtx_setParameter(stream, ZSTD_c_compressionLevel, level_);
    ZSTD_CCtx_setParameter(stream, ZSTD_c_windowLog, kLiteralWindowLog);
  }
  // A frame's header, and the headers of blocks that did not become shorter.
  encoded_.resize(ZSTD_compressBound(raw.size()) + 64);
  ZSTD_inBuffer in{raw.data(), raw.size(), 0};
  ZSTD_outBuffer out{encoded_.data(), encoded_.size(), 0};
  const size_t left = ZSTD_compressStream2(stream, &out, &in, ZSTD_e_flush);
  if (ZSTD_isError(left)) return Error{Code::kLimit, std::string("compress: ") + ZSTD_getErrorName(left)};
  if (left != 0 || in.pos != in.size) return Error{Code::kLimit, "compress: no room"};
  rawBytes_ += raw.size();
  const LiteralCoding coding = begun_ ? LiteralCoding::kGoesOn : LiteralCoding::kBegins;
  begun_ = true;
  return Piece{coding, ByteSpan(encoded_.data(), out.pos)};
}

struct LiteralStreamReader::Decompressor {
  ZSTD_DCtx* stream = ZSTD_createDCtx();
  ~Decompressor() { ZSTD_freeDCtx(stream); }
};

LiteralStreamReader::LiteralStreamReader() = default;
LiteralStreamReader::~LiteralStreamReader() = default;

void LiteralStreamReader::restart() {
  if (decompressor_ != nullptr) ZSTD_DCtx_reset(decompressor_->stream, ZSTD_reset_session_only);
}

Status LiteralStreamReader::decompress(uint8_t coding, ByteSpan encoded, size_t rawBytes, Bytes& raw) {
  if (decompressor_ == nullptr) {
    decompressor_ = std::make_unique<Decompressor>();
    if (decompressor_->stream == nullptr) return Error{Code::kLimit, "no memory for the decompressor"};
    ZSTD_DCtx_setParameter(decompressor_->stream, ZSTD_d_windowLogMax, kLiteralWindowLog);
  }
  if (coding == static_cast<uint8_t>(LiteralCoding::kBegins)) restart();
  ZSTD_DCtx* stream = decompressor_->stream;
  raw.resize(rawBytes);
  ZSTD_inBuffer in{encoded.data(), encoded.size(), 0};
  ZSTD_outBuffer out{raw.data(), raw.size(), 0};
  for (bool moved = true; moved && in.pos < in.size;) {
    const size_t before = in.pos + out.pos;
    const size_t state = ZSTD_decompressStream(stream, &out, &in);
    if (ZSTD_isError(state)) return Error{Code::kCorrupt, std::string("decompress: ") + ZSTD_getErrorName(state)};
    // The frame goes on as long as there are pieces.
    if (state == 0) return Error{Code::kCorrupt, "the end of literals that go on"};
    moved = in.pos + out.pos != before;
  }
  uint8_t beyond = 0;
  ZSTD_inBuffer nothing{nullptr, 0, 0};
  ZSTD_outBuffer more{&beyond, 1, 0};
  if (ZSTD_isError(ZSTD_decompressStream(stream, &more, &nothing)) || more.pos != 0 || in.pos != in.size ||
      out.pos != out.size) {
    return Error{Code::kCorrupt, "literals of another length than announced"};
  }
  return {};
}

}  // namespace deltahop
