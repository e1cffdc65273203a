#include "hash/segment_digests.h"

#include <exception>
#include <memory>
#include <new>
#include <utility>

#include "hash/content_digest.h"

namespace deltahop {

SegmentDigests::SegmentDigests(File file, uint64_t fileBytes)
    : file_(std::move(file)), fileBytes_(fileBytes), digests_(fileBytes / kContentSegmentBytes) {
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::exception&) {
    stopped_ = true;
  }
}

SegmentDigests::~SegmentDigests() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

std::optional<Digest> SegmentDigests::at(uint64_t segment) {
  std::unique_lock lock(mutex_);
  if (segment >= digests_.size()) return {};
  changed_.wait(lock, [&] { return segment < done_ || stopped_; });
  return digests_[segment];
}

void SegmentDigests::run() {
  const std::unique_ptr<uint8_t[]> buffer(new (std::nothrow) uint8_t[kContentSegmentBytes]);
  for (uint64_t segment = 0; segment < digests_.size(); ++segment) {
    auto digest = buffer == nullptr ? Result<Digest>(Error{Code::kLimit, "out of memory", 0})
                                    : read(segment, {buffer.get(), kContentSegmentBytes});
    const std::lock_guard lock(mutex_);
    if (!digest.ok()) stopped_ = true;
    if (stopped_) break;
    digests_[segment] = digest.value();
    done_ = segment + 1;
    changed_.notify_all();
  }
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

Result<Digest> SegmentDigests::read(uint64_t segment, std::span<uint8_t> buffer) {
  const uint64_t offset = segment * kContentSegmentBytes;
  DH_TRY(const uint64_t hole, file_.holeBytes(offset, fileBytes_));
  if (hole >= kContentSegmentBytes) return zeroSegmentDigest();
  DH_TRY(const size_t got, file_.readAt(offset, buffer));
  if (got < buffer.size()) return Error{Code::kChanged, "a file became shorter while it was read", 0};
  return isZero(buffer) ? zeroSegmentDigest() : blake3(buffer);
}

}  // namespace deltahop
