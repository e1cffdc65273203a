// Pages against old pages into self-contained, compressed blocks. FORMATS.md section 6.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "base/bytes.h"
#include "base/result.h"
#include "codec/section.h"
#include "io/page_file.h"
#include "match/page_matcher.h"

namespace deltahop {

/// Sections of one block, before compression.
inline constexpr size_t kMaxPageOpsBytes = 32 << 10;
inline constexpr size_t kMaxPageBitmapBytes = 128 << 10;
inline constexpr size_t kMaxPageWordBytes = 256 << 10;
inline constexpr size_t kMaxPageContentBytes = 256 << 10;
/// The old bytes that help with the contents.
inline constexpr size_t kMaxPageOldBytes = 512 << 10;
/// No block is longer, compressed or not.
inline constexpr size_t kMaxPageBlockBytes = 700 << 10;
/// A page of which more words differ is cheaper compressed beside its former self.
inline constexpr size_t kMaxChangedWords = 64;
/// One bit a word of 8 bytes.
inline constexpr size_t kPageBitmapBytes = kPageBytes / 64;

/// The numbers of the format.
enum class PageOp : uint8_t { kSame = 0, kZeros = 1, kWords = 2, kChanged = 3, kFresh = 4, kBeside = 5 };

/// One block, not compressed yet.
struct PageBlock {
  Bytes ops;
  Bytes bitmaps;
  Bytes words;
  Bytes contents;
  Bytes old;  // what the contents are compressed beside; not sent
};

/// Compresses a block.
class PageBlockWriter {
 public:
  explicit PageBlockWriter(int zstdLevel) : sections_(zstdLevel) {}
  void setLevel(int zstdLevel) { sections_.setLevel(zstdLevel); }
  Result<Bytes> write(const PageBlock& block);

 private:
  SectionWriter sections_;
};

/// A PageSink that gives a block whenever one is full.
class PageEncoder : public PageSink {
 public:
  using BlockSink = std::function<Status(PageBlock)>;

  explicit PageEncoder(BlockSink onBlock) : onBlock_(std::move(onBlock)) {}
  Status same(uint64_t oldOffset, uint64_t count) override;
  Status zeros(uint64_t count) override;
  Status changed(const uint8_t* page, uint64_t oldOffset, const uint8_t* old) override;
  Status beside(uint64_t oldOffset, const uint8_t* old) override;
  Status fresh(ByteSpan bytes) override;
  /// Gives what is left.
  Status finish();

 private:
  Status add(PageOp op, uint64_t count, uint64_t pages, uint64_t oldOffset, size_t contentBytes);
  void flushOp();
  Status flushBlock();

  BlockSink onBlock_;
  PageBlock block_;
  bool hasOp_ = false;
  PageOp op_ = PageOp::kSame;
  uint64_t count_ = 0;  // pages, of fresh ones bytes
  uint64_t opPages_ = 0;
  uint64_t oldOffset_ = 0;  // where the pending instruction begins in the basis
  uint64_t blockPages_ = 0;
  uint64_t expected_ = 0;  // old offset of the next page if nothing shifts
};

}  // namespace deltahop
