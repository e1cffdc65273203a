// The digests of a file's segments, found beside other work.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/result.h"
#include "hash/blake3.h"
#include "io/file.h"

namespace deltahop {

/// Reads a file from its beginning to its end on a thread of its own, which ends with this. Memory: 1 MiB, and 33 bytes
/// a segment.
class SegmentDigests {
 public:
  /// Takes the file over, of which `fileBytes` count. Where no thread is to be had, nothing is found.
  SegmentDigests(File file, uint64_t fileBytes);
  SegmentDigests(const SegmentDigests&) = delete;
  SegmentDigests& operator=(const SegmentDigests&) = delete;
  ~SegmentDigests();

  /// The digest of a full segment as it was when it was read, waiting for that; nothing if it could not be read.
  std::optional<Digest> at(uint64_t segment);

 private:
  void run();
  Result<Digest> read(uint64_t segment, std::span<uint8_t> buffer);

  const File file_;
  const uint64_t fileBytes_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::vector<std::optional<Digest>> digests_;
  uint64_t done_ = 0;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace deltahop
