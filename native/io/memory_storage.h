// For tests: a file in memory that can be stopped at any step, and that forgets what a loss of power would.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "io/storage.h"

namespace deltahop {

/// How many more steps (writes, punches, truncations, syncs) several files may do together.
struct StepBudget {
  size_t left = SIZE_MAX;
  bool take() {
    if (left == 0) return false;
    --left;
    return true;
  }
};

/// Everything written is there for a reader at once; a crash keeps any part of what no sync has covered.
class MemoryStorage final : public Storage {
 public:
  explicit MemoryStorage(Bytes content = {}, StepBudget* budget = nullptr)
      : content_(content), durable_(std::move(content)), budget_(budget) {}

  const Bytes& content() const { return content_; }
  /// What lies on the disk after a loss of power; `random` says for each change since the last sync how much of it was
  /// done, out of a given number of steps.
  Bytes afterPowerLoss(const std::function<uint64_t(uint64_t)>& random) const {
    Bytes disk = durable_;
    for (const Change& change : pending_) change.apply(disk, random(change.data.size() + 2));
    return disk;
  }

  Result<size_t> readAt(uint64_t offset, std::span<uint8_t> buffer) const override {
    if (offset >= content_.size()) return size_t{0};
    const size_t count = std::min(buffer.size(), content_.size() - static_cast<size_t>(offset));
    std::copy_n(content_.begin() + static_cast<ptrdiff_t>(offset), count, buffer.begin());
    return count;
  }
  Result<uint64_t> size() const override { return uint64_t{content_.size()}; }
  Result<uint64_t> holeBytes(uint64_t offset, uint64_t fileBytes) const override {
    // Whole blocks of zeros are holes.
    const auto isHole = [&](uint64_t block) {
      const uint64_t end = std::min<uint64_t>((block + 1) * kBlockBytes, content_.size());
      for (uint64_t at = block * kBlockBytes; at < end; ++at) {
        if (content_[at] != 0) return false;
      }
      return true;
    };
    uint64_t block = offset / kBlockBytes;
    if (!isHole(block)) return uint64_t{0};
    while (block * kBlockBytes < fileBytes && isHole(block)) ++block;
    return std::min(block * kBlockBytes, fileBytes) - offset;
  }
  Status writeAt(uint64_t offset, ByteSpan data) override {
    return change({offset, Bytes(data.begin(), data.end()), false});
  }
  Status punch(uint64_t offset, uint64_t length) override {
    if (offset >= content_.size()) return {};
    return change({offset, Bytes(std::min<uint64_t>(length, content_.size() - offset)), false});
  }
  Status truncate(uint64_t size) override { return change({size, {}, true}); }
  Status sync() override {
    if (budget_ != nullptr && !budget_->take()) return stopped();
    durable_ = content_;
    pending_.clear();
    return {};
  }
  Status touch() override { return {}; }

 private:
  static constexpr uint64_t kBlockBytes = 64;
  // What a fuzz target may make us allocate.
  static constexpr uint64_t kMaxBytes = 4 << 20;

  struct Change {
    uint64_t offset = 0;  // or the new size
    Bytes data;
    bool isTruncate = false;

    // `done` of data.size() + 1 steps: none, a part of the bytes, all.
    void apply(Bytes& bytes, uint64_t done) const {
      if (done == 0) return;
      if (isTruncate) {
        bytes.resize(offset);
        return;
      }
      const uint64_t count = std::min<uint64_t>(done - 1, data.size());
      if (bytes.size() < offset + count) bytes.resize(offset + count);
      std::copy_n(data.begin(), count, bytes.begin() + static_cast<ptrdiff_t>(offset));
    }
  };

  static Error stopped() { return Error{Code::kCancelled, "stopped by the test"}; }

  Status change(Change made) {
    if (budget_ != nullptr && !budget_->take()) return stopped();
    if (made.offset > kMaxBytes || made.data.size() > kMaxBytes - made.offset) return Error{Code::kNoSpace, "full"};
    made.apply(content_, made.data.size() + 1);
    pending_.push_back(std::move(made));
    return {};
  }

  Bytes content_;
  Bytes durable_;
  std::vector<Change> pending_;
  StepBudget* budget_;
};

}  // namespace deltahop
