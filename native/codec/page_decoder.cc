#include "codec/page_decoder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "wire/reader.h"

namespace deltahop {
namespace {

int64_t unzigzag(uint64_t value) {
  return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
}

}  // namespace

// Calls visit(op, bytes made), checking numbers on the way.
template <typename Visit>
Status PageDecoder::forEachOp(Visit visit) const {
  Reader reader(ops_);
  uint64_t expected = 0;
  uint64_t left = maxTargetBytes_ - targetBytes_;
  while (reader.remaining() > 0) {
    DH_TRY(const uint64_t tag, reader.varint());
    if ((tag & 7) > static_cast<uint64_t>(PageOp::kBeside)) return Error{Code::kCorrupt, "unknown page instruction"};
    Op op{static_cast<PageOp>(tag & 7), tag >> 3, 0};
    const bool isFresh = op.op == PageOp::kFresh;
    if (op.count == 0) return Error{Code::kCorrupt, "empty page instruction"};
    const bool isBeside = op.op == PageOp::kBeside;
    if (isBeside && op.count != 1) return Error{Code::kCorrupt, "a page instruction's count"};
    if (!isBeside && op.count > (isFresh ? left : left / kPageBytes)) {
      return Error{Code::kLimit, "pages beyond what is allowed"};
    }
    const uint64_t bytes = isFresh ? op.count : op.count * kPageBytes;
    if (!isBeside) left -= bytes;
    if (!isFresh && op.op != PageOp::kZeros) {
      DH_TRY(const uint64_t jump, reader.varint());
      op.oldOffset = expected + static_cast<uint64_t>(unzigzag(jump));
      if (op.oldOffset > basis_.size() || bytes > basis_.size() - op.oldOffset) {
        return Error{Code::kCorrupt, "a page from outside the basis"};
      }
      if (!isBeside) expected = op.oldOffset;
    }
    if (!isBeside) expected += (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
    DH_CHECK(visit(op, bytes));
  }
  return {};
}

// What the contents were compressed beside.
Status PageDecoder::gatherOld() {
  old_.clear();
  return forEachOp([&](const Op& op, uint64_t bytes) -> Status {
    if (op.op != PageOp::kChanged && op.op != PageOp::kBeside) return {};
    if (bytes > kMaxPageOldBytes - old_.size()) return Error{Code::kCorrupt, "too many changed pages in a block"};
    const size_t at = old_.size();
    old_.resize(at + bytes);
    return basis_.readAt(op.oldOffset, std::span(old_).subspan(at));
  });
}

// The sections hold just what the instructions need.
Status PageDecoder::check() {
  uint64_t bitmapBytes = 0;
  uint64_t contentBytes = 0;
  DH_CHECK(forEachOp([&](const Op& op, uint64_t bytes) -> Status {
    if (op.op == PageOp::kWords) bitmapBytes += op.count * kPageBitmapBytes;
    if (op.op == PageOp::kChanged || op.op == PageOp::kFresh) contentBytes += bytes;
    if (bitmapBytes > bitmaps_.size() || contentBytes > contents_.size()) {
      return Error{Code::kCorrupt, "page instruction without its bytes"};
    }
    return {};
  }));
  size_t words = 0;
  for (const uint8_t byte : bitmaps_) words += static_cast<size_t>(std::popcount(byte));
  if (bitmapBytes != bitmaps_.size() || contentBytes != contents_.size() || 8 * words != words_.size()) {
    return Error{Code::kCorrupt, "page bytes without an instruction"};
  }
  return {};
}

Status PageDecoder::decode(ByteSpan block, DeltaSink& sink) {
  Reader reader(block);
  DH_CHECK(sections_.read(reader, kMaxPageOpsBytes, ops_));
  if (ops_.empty()) return Error{Code::kCorrupt, "empty page block"};
  auto gathered = gatherOld();
  if (!gathered.ok()) {
    // Inside a whole block nothing may be cut short: only a stream can be.
    if (gathered.error().code == Code::kTruncated) gathered.error().code = Code::kCorrupt;
    return gathered;
  }
  DH_CHECK(sections_.read(reader, kMaxPageBitmapBytes, bitmaps_));
  DH_CHECK(sections_.read(reader, kMaxPageWordBytes, words_));
  DH_CHECK(sections_.read(reader, kMaxPageContentBytes, contents_, old_));
  DH_CHECK(reader.expectEnd());
  DH_CHECK(check());
  size_t bitmapAt = 0;
  size_t wordAt = 0;
  size_t contentAt = 0;
  uint64_t made = 0;
  const Status told = forEachOp([&](const Op& op, uint64_t bytes) -> Status {
    if (op.op != PageOp::kBeside) made += bytes;
    switch (op.op) {
      case PageOp::kSame:
        return sink.copy(op.oldOffset, bytes);
      case PageOp::kZeros:
        return sink.zeros(bytes);
      case PageOp::kWords:
        for (uint64_t i = 0; i < op.count; ++i)
          DH_CHECK(applyWords(op.oldOffset + i * kPageBytes, bitmapAt, wordAt, sink));
        return {};
      case PageOp::kBeside:
        return {};
      case PageOp::kChanged:
      case PageOp::kFresh:
        contentAt += bytes;
        return sink.literal(ByteSpan(contents_).subspan(contentAt - bytes, bytes));
    }
    return {};
  });
  DH_CHECK(told);
  targetBytes_ += made;
  return {};
}

Status PageDecoder::applyWords(uint64_t oldOffset, size_t& bitmapAt, size_t& wordAt, DeltaSink& sink) {
  std::array<uint8_t, kPageBytes> page;
  DH_CHECK(basis_.readAt(oldOffset, page));
  for (size_t byte = 0; byte < kPageBitmapBytes; ++byte) {
    for (unsigned bits = bitmaps_[bitmapAt + byte]; bits != 0; bits &= bits - 1) {
      std::memcpy(page.data() + 8 * (8 * byte + static_cast<size_t>(std::countr_zero(bits))), words_.data() + wordAt,
                  8);
      wordAt += 8;
    }
  }
  bitmapAt += kPageBitmapBytes;
  return sink.literal(page);
}

}  // namespace deltahop
