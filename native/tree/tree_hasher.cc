// addContentDigests() of tree/scan.h: a tree's files, hashed by two threads. One waits for the disk while the other
// hashes; more would take the cores away from the rest of a transfer.
#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <mutex>
#include <optional>

#include "base/two_threads.h"
#include "hash/content_digest.h"
#include "tree/scan.h"

namespace deltahop {
namespace {

// Neighbours are hashed by one thread, which opens their directory once.
constexpr size_t kMaxBatchFiles = 64;
constexpr uint64_t kMaxBatchBytes = 4 << 20;
// From here on the threads share one file, a segment at a time; below, the sharing costs more than it gives.
constexpr uint64_t kSharedFileBytes = 32 << 20;
// Segments whose digests are held until all before them are there.
constexpr uint64_t kWindowSegments = 256;

class TreeHasher {
 public:
  TreeHasher(const Directory& root, Tree& tree, const ContentDigestOptions& options, const CancelCheck& cancelled)
      : root_(root), tree_(tree), options_(options), cancelled_(cancelled) {}

  Status run() {
    if (tree_.totalFiles() > 1) {
      DH_CHECK(onTwoThreads([this] { hashBatches(); }));
    } else {
      hashBatches();
    }
    if (failure_.has_value()) return std::move(failure_->error);
    return {};
  }

 private:
  using Buffer = std::unique_ptr<uint8_t[]>;

  struct Failure {
    uint32_t index;
    Error error;
  };

  struct Hashed {
    uint32_t index;
    Digest digest;
  };

  void hashBatches() {
    ParentCache parents(root_, tree_);
    const auto buffer = std::make_unique_for_overwrite<uint8_t[]>(kContentSegmentBytes);
    std::vector<uint32_t> batch;
    std::vector<Hashed> hashed;
    while (nextBatch(batch)) {
      hashed.clear();
      uint64_t bytes = 0;
      for (const uint32_t index : batch) {
        auto digest = digestOf(parents, index, buffer);
        bytes += tree_.fileBytes(index);
        if (digest.ok()) {
          hashed.push_back({index, digest.value()});
        } else if (isFailure(digest.error())) {
          fail(index, std::move(digest).error());
          return;
        }
      }
      const std::lock_guard lock(mutex_);
      for (const Hashed& each : hashed) tree_.setDigest(each.index, each.digest);
      settle(bytes);
    }
  }

  // The next files to hash; false when there are none or somebody failed.
  bool nextBatch(std::vector<uint32_t>& batch) {
    const std::lock_guard lock(mutex_);
    batch.clear();
    uint64_t bytes = 0;
    while (!failure_.has_value() && next_ < tree_.size() && batch.size() < kMaxBatchFiles && bytes < kMaxBatchBytes) {
      const uint32_t index = next_++;
      if (!tree_.isRegular(index) || tree_.isFollower(index)) continue;
      if (options_.missingOnly && tree_.digest(index) != nullptr) continue;
      batch.push_back(index);
      bytes += tree_.fileBytes(index);
    }
    return !batch.empty() && !failure_.has_value();
  }

  bool isFailure(const Error& error) const {
    return error.code == Code::kCancelled || options_.strict ||
           (error.code != Code::kNotFound && error.code != Code::kChanged && error.sysErrno != EACCES);
  }

  void fail(uint32_t index, Error error) {
    if (error.code != Code::kCancelled) error.context = tree_.path(index) + ": " + error.context;
    const std::lock_guard lock(mutex_);
    if (!failure_.has_value() || index < failure_->index) failure_.emplace(index, std::move(error));
  }

  // Under the lock.
  void settle(uint64_t bytes) {
    settledBytes_ += bytes;
    if (options_.onBytes) options_.onBytes(settledBytes_);
  }

  Result<Digest> digestOf(ParentCache& parents, uint32_t index, const Buffer& buffer) {
    if (cancelled_ && cancelled_()) return Error{Code::kCancelled, "hash a file", 0};
    DH_TRY(const Directory* parent, parents.parentOf(index));
    auto opened = parent->open(std::string(tree_.name(index)), O_RDONLY | O_NOCTTY);
    if (!opened.ok()) {
      const int sysErrno = opened.error().sysErrno;
      if (sysErrno == ELOOP || sysErrno == ENXIO || sysErrno == ENODEV) return changed();
      return std::move(opened).error();
    }
    const File file = std::move(opened).value();
    DH_TRY(const struct stat before, file.stat());
    DH_CHECK(checkUnchanged(index, before));
    DH_TRY(const Digest digest, digestOfOpen(file, tree_.fileBytes(index), buffer));
    DH_TRY(const struct stat after, file.stat());
    DH_CHECK(checkUnchanged(index, after));
    return digest;
  }

  Status checkUnchanged(uint32_t index, const struct stat& status) const {
    const Entry entry = tree_.entry(index);
    if (S_ISREG(status.st_mode) && static_cast<uint64_t>(status.st_size) == entry.value &&
        status.st_mtim.tv_sec == entry.mtimeSeconds && status.st_mtim.tv_nsec == entry.mtimeNanoseconds) {
      return {};
    }
    return changed();
  }

  static Error changed() { return Error{Code::kChanged, "changed while it was read", 0}; }

  Result<Digest> digestOfOpen(const File& file, uint64_t fileBytes, const Buffer& buffer) {
    if (fileBytes <= kContentSegmentBytes) {
      // Looking for holes would cost more than reading them.
      DH_TRY(const size_t got, file.readAt(0, {buffer.get(), static_cast<size_t>(fileBytes)}));
      if (got < fileBytes) return shrunk();
      return contentDigest(ByteSpan(buffer.get(), got));
    }
    if (fileBytes >= kSharedFileBytes) return digestOfShared(file, fileBytes, buffer);
    return contentDigest(file, [&](uint64_t) { return !(cancelled_ && cancelled_()); });
  }

  // A large file: whichever thread is free takes its next segment.
  Result<Digest> digestOfShared(const File& file, uint64_t fileBytes, const Buffer& buffer) {
    if (fileBytes > kMaxFileBytes) return Error{Code::kLimit, "file larger than 64 TiB", 0};
    const std::lock_guard oneAtATime(sharedMutex_);
    ContentHasher hasher;
    std::vector<Digest> digests;
    while (hasher.size() < fileBytes) {
      const uint64_t start = hasher.size();
      const uint64_t segments = (fileBytes - start) / kContentSegmentBytes;
      if (segments == 0) {
        DH_TRY(const size_t got, file.readAt(start, {buffer.get(), static_cast<size_t>(fileBytes - start)}));
        if (got < fileBytes - start) return shrunk();
        hasher.update({buffer.get(), got});
        break;
      }
      DH_TRY(const uint64_t hole, file.holeBytes(start, fileBytes));
      if (hole >= kContentSegmentBytes) {
        hasher.updateZeros(hole / kContentSegmentBytes * kContentSegmentBytes);
        continue;
      }
      digests.resize(std::min(segments, kWindowSegments));
      DH_CHECK(hashSegments(file, fileBytes, start, digests));
      for (const Digest& digest : digests) hasher.updateSegment(digest);
      const std::lock_guard lock(mutex_);
      if (options_.onBytes) options_.onBytes(settledBytes_ + hasher.size());
    }
    return hasher.finish();
  }

  Status hashSegments(const File& file, uint64_t fileBytes, uint64_t start, std::span<Digest> digests) {
    std::atomic<size_t> next = 0;
    std::mutex failureMutex;
    std::optional<Error> failure;
    DH_CHECK(onTwoThreads([&] {
      const auto buffer = std::make_unique_for_overwrite<uint8_t[]>(kContentSegmentBytes);
      for (size_t i = next++; i < digests.size(); i = next++) {
        const uint64_t offset = start + i * kContentSegmentBytes;
        const auto digest = digestOfSegment(file, fileBytes, offset, buffer);
        if (!digest.ok()) {
          next = digests.size();
          const std::lock_guard lock(failureMutex);
          if (!failure.has_value()) failure.emplace(digest.error());
          return;
        }
        digests[i] = digest.value();
      }
    }));
    if (failure.has_value()) return std::move(*failure);
    return {};
  }

  Result<Digest> digestOfSegment(const File& file, uint64_t fileBytes, uint64_t offset, const Buffer& buffer) {
    if (cancelled_ && cancelled_()) return Error{Code::kCancelled, "hash a file", 0};
    DH_TRY(const uint64_t hole, file.holeBytes(offset, fileBytes));
    if (hole >= kContentSegmentBytes) return zeroSegmentDigest();
    DH_TRY(const size_t got, file.readAt(offset, {buffer.get(), kContentSegmentBytes}));
    if (got < kContentSegmentBytes) return shrunk();
    return blake3({buffer.get(), kContentSegmentBytes});
  }

  static Error shrunk() { return Error{Code::kChanged, "became shorter while it was hashed", 0}; }

  const Directory& root_;
  Tree& tree_;
  const ContentDigestOptions& options_;
  const CancelCheck& cancelled_;
  std::mutex mutex_;  // guards what follows and the tree's digests
  uint32_t next_ = 1;
  uint64_t settledBytes_ = 0;
  std::optional<Failure> failure_;
  std::mutex sharedMutex_;  // held by the one whose file is shared
};

}  // namespace

Status addContentDigests(const Directory& root, Tree& tree, const ContentDigestOptions& options,
                         const CancelCheck& cancelled) {
  return TreeHasher(root, tree, options, cancelled).run();
}

}  // namespace deltahop
