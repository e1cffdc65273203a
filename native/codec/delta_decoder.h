// The reverse of the delta encoder: checks everything, then tells a DeltaSink.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"
#include "codec/delta_encoder.h"
#include "codec/section.h"

namespace deltahop {

/// Decodes delta blocks. Memory: one block's instructions and literals.
class DeltaDecoder {
 public:
  /// Copies must lie inside [0, basisBytes); all blocks together must not make more than `maxTargetBytes`. With
  /// `stream` literals may be pieces of it; it must outlive the decoder.
  DeltaDecoder(uint64_t basisBytes, uint64_t maxTargetBytes, LiteralStreamReader* stream = nullptr);

  /// Decodes one block and gives its instructions to `sink`. A block with any fault (kCorrupt, kTruncated, kLimit) is
  /// refused before its first instruction is given.
  Status decode(ByteSpan block, DeltaSink& sink);
  /// Bytes of the target described so far.
  uint64_t targetBytes() const { return targetBytes_; }

 private:
  template <typename Visit>
  Status forEachOp(Visit visit) const;

  SectionReader sections_;
  uint64_t basisBytes_;
  uint64_t maxTargetBytes_;
  LiteralStreamReader* stream_;
  uint64_t targetBytes_ = 0;
  Bytes ops_;
  Bytes literals_;
};

/// Reads the literals of a block that nobody wants, so that `stream` can go on.
Status skipDeltaBlock(ByteSpan block, LiteralStreamReader& stream);

}  // namespace deltahop
