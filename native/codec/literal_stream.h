// Literals of a whole transfer as one stream: each piece is compressed with what came before it in view.
// FORMATS.md section 3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/bytes.h"
#include "base/result.h"

namespace deltahop {

/// How far back a stream looks: it is what a reader must hold.
inline constexpr int kLiteralWindowLog = 23;

/// The numbers of the format.
enum class LiteralCoding : uint8_t { kStored = 0, kGoesOn = 3, kBegins = 4 };
/// True for a piece that only a LiteralStreamReader reads.
bool isOfLiteralStream(uint8_t coding);

/// Compresses pieces. One thread.
class LiteralStreamWriter {
 public:
  explicit LiteralStreamWriter(int zstdLevel);
  ~LiteralStreamWriter();

  /// For what follows; not at once, as the stream begins anew with it.
  void setLevel(int zstdLevel);
  /// A piece as it is to be written: the view is valid until the next call.
  struct Piece {
    LiteralCoding coding = LiteralCoding::kStored;
    ByteSpan bytes;
  };
  Result<Piece> compress(ByteSpan raw);
  /// The next piece begins a stream: whoever reads may not have had the last ones.
  void restart() { begun_ = false; }

 private:
  struct Compressor;

  std::unique_ptr<Compressor> compressor_;
  Bytes encoded_;
  int level_;
  int wantedLevel_;
  bool begun_ = false;
  uint64_t rawBytes_ = 0;  // since the stream began
};

/// Reads them back, all and in order.
class LiteralStreamReader {
 public:
  LiteralStreamReader();
  ~LiteralStreamReader();

  /// Fills `raw` with as many bytes as were announced. kCorrupt.
  Status decompress(uint8_t coding, ByteSpan encoded, size_t rawBytes, Bytes& raw);
  /// What comes begins a stream, even if it does not say so.
  void restart();

 private:
  struct Decompressor;
  std::unique_ptr<Decompressor> decompressor_;
};

}  // namespace deltahop
