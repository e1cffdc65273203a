// The reverse of the page encoder: checks everything, then tells a DeltaSink.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"
#include "codec/page_encoder.h"
#include "codec/section.h"
#include "io/basis.h"
#include "match/matcher.h"

namespace deltahop {

/// Told what the blocks of a page-structured file make.
class PageDecoder {
 public:
  /// All blocks together must not make more than `maxTargetBytes`. The basis must outlive the decoder.
  PageDecoder(const Basis& basis, uint64_t maxTargetBytes) : basis_(basis), maxTargetBytes_(maxTargetBytes) {}

  /// Decodes one block; `sink.copy` is given offsets of the basis. A block with any fault (kCorrupt, kTruncated,
  /// kLimit) is refused before the sink hears of it. Memory: the sections of one block.
  Status decode(ByteSpan block, DeltaSink& sink);

 private:
  struct Op {
    PageOp op = PageOp::kSame;
    uint64_t count = 0;  // pages, of fresh ones bytes
    uint64_t oldOffset = 0;
  };
  template <typename Visit>
  Status forEachOp(Visit visit) const;
  Status gatherOld();
  Status check();
  Status applyWords(uint64_t oldOffset, size_t& bitmapAt, size_t& wordAt, DeltaSink& sink);

  const Basis& basis_;
  uint64_t maxTargetBytes_;
  uint64_t targetBytes_ = 0;
  SectionReader sections_;
  Bytes ops_;
  Bytes bitmaps_;
  Bytes words_;
  Bytes contents_;
  Bytes old_;
};

}  // namespace deltahop
