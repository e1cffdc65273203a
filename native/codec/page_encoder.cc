#include "codec/page_encoder.h"

#include <array>
#include <cstring>
#include <utility>

#include "wire/writer.h"

namespace deltahop {
namespace {

// The longest instruction: a tag and a page number.
constexpr size_t kMaxOpBytes = 20;
// So that a receiver has something to do while a long run is still being found.
constexpr uint64_t kMaxBlockPages = (uint64_t{16} << 20) / kPageBytes;

bool usesOld(PageOp op) {
  return op != PageOp::kZeros && op != PageOp::kFresh;
}

uint64_t zigzag(int64_t value) {
  return (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
}

// The words that differ; more than `most` are not counted to the end.
size_t changedWords(const uint8_t* page, const uint8_t* old, std::array<uint8_t, kPageBitmapBytes>& bitmap,
                    std::array<uint8_t, 8 * kMaxChangedWords>& words) {
  size_t count = 0;
  bitmap.fill(0);
  for (size_t word = 0; word < kPageBytes / 8; ++word) {
    uint64_t now;
    uint64_t before;
    std::memcpy(&now, page + 8 * word, 8);
    std::memcpy(&before, old + 8 * word, 8);
    if (now == before) continue;
    if (count == kMaxChangedWords) return count + 1;
    bitmap[word / 8] = static_cast<uint8_t>(bitmap[word / 8] | 1u << (word % 8));
    std::memcpy(words.data() + 8 * count, &now, 8);
    ++count;
  }
  return count;
}

}  // namespace

Result<Bytes> PageBlockWriter::write(const PageBlock& block) {
  Bytes output;
  output.reserve(block.contents.size() / 4 + block.words.size() / 2 + block.ops.size() + 64);
  DH_CHECK(sections_.write(output, block.ops));
  DH_CHECK(sections_.write(output, block.bitmaps));
  DH_CHECK(sections_.write(output, block.words));
  DH_CHECK(sections_.write(output, block.contents, block.old));
  return output;
}

void PageEncoder::flushOp() {
  if (!hasOp_) return;
  Writer writer(block_.ops);
  writer.varint(count_ << 3 | static_cast<uint64_t>(op_));
  if (usesOld(op_)) {
    writer.varint(zigzag(static_cast<int64_t>(oldOffset_ - expected_)));
    if (op_ != PageOp::kBeside) expected_ = oldOffset_;
  }
  expected_ += opPages_ * kPageBytes;
  hasOp_ = false;
}

Status PageEncoder::flushBlock() {
  flushOp();
  if (block_.ops.empty()) return {};
  expected_ = 0;
  blockPages_ = 0;
  return onBlock_(std::exchange(block_, {}));
}

// Goes on with the pending instruction, or begins one.
Status PageEncoder::add(PageOp op, uint64_t count, uint64_t pages, uint64_t oldOffset, size_t contentBytes) {
  const bool full = block_.ops.size() + 2 * kMaxOpBytes > kMaxPageOpsBytes || blockPages_ >= kMaxBlockPages ||
                    block_.contents.size() + contentBytes > kMaxPageContentBytes ||
                    block_.old.size() + kPageBytes > kMaxPageOldBytes ||
                    block_.bitmaps.size() + kPageBitmapBytes > kMaxPageBitmapBytes ||
                    block_.words.size() + 8 * kMaxChangedWords > kMaxPageWordBytes;
  if (full) DH_CHECK(flushBlock());
  if (!hasOp_ || op_ != op || op == PageOp::kBeside ||
      (usesOld(op) && oldOffset != oldOffset_ + opPages_ * kPageBytes)) {
    flushOp();
    hasOp_ = true;
    op_ = op;
    count_ = 0;
    opPages_ = 0;
    oldOffset_ = oldOffset;
  }
  count_ += count;
  opPages_ += pages;
  blockPages_ += pages;
  return {};
}

Status PageEncoder::same(uint64_t oldOffset, uint64_t count) {
  return add(PageOp::kSame, count, count, oldOffset, 0);
}

Status PageEncoder::zeros(uint64_t count) {
  return add(PageOp::kZeros, count, count, 0, 0);
}

Status PageEncoder::beside(uint64_t oldOffset, const uint8_t* old) {
  DH_CHECK(add(PageOp::kBeside, 1, 0, oldOffset, kPageBytes));
  block_.old.insert(block_.old.end(), old, old + kPageBytes);
  return {};
}

Status PageEncoder::changed(const uint8_t* page, uint64_t oldOffset, const uint8_t* old) {
  std::array<uint8_t, kPageBitmapBytes> bitmap;
  std::array<uint8_t, 8 * kMaxChangedWords> words;
  const size_t count = changedWords(page, old, bitmap, words);
  if (count <= kMaxChangedWords) {
    DH_CHECK(add(PageOp::kWords, 1, 1, oldOffset, 0));
    block_.bitmaps.insert(block_.bitmaps.end(), bitmap.begin(), bitmap.end());
    block_.words.insert(block_.words.end(), words.begin(), words.begin() + static_cast<ptrdiff_t>(8 * count));
    return {};
  }
  DH_CHECK(add(PageOp::kChanged, 1, 1, oldOffset, kPageBytes));
  block_.contents.insert(block_.contents.end(), page, page + kPageBytes);
  block_.old.insert(block_.old.end(), old, old + kPageBytes);
  return {};
}

Status PageEncoder::fresh(ByteSpan bytes) {
  DH_CHECK(add(PageOp::kFresh, bytes.size(), 1, 0, bytes.size()));
  block_.contents.insert(block_.contents.end(), bytes.begin(), bytes.end());
  return {};
}

Status PageEncoder::finish() {
  return flushBlock();
}

}  // namespace deltahop
