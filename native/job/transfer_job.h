// What both ends of a tree transfer share: messages in, messages out, one way to fail.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "job/threaded_job.h"
#include "job/transfer_message.h"
#include "tree/metadata.h"
#include "wire/frame.h"

namespace deltahop {

/// Base of SendJob and ReceiveJob.
class TransferJob : public ThreadedJob {
 protected:
  /// Does the transfer. Its failure is told to the peer before the job ends.
  virtual Result<JobReport> transfer() = 0;
  Result<JobReport> run() final;

  /// The next message, waiting for it. kTruncated at the end of the input, kPeer for the peer's kError, kCancelled.
  Result<Frame> receive();
  /// True if receive() would not wait.
  bool messageWaiting();

  uint64_t receivedBytes() const { return receivedBytes_; }
  Notes& notes() { return notes_; }

  /// Statistics by name, in the order of their names.
  using Statistics = std::map<std::string, double>;
  JobReport report(const Statistics& statistics, std::string text = {});

 private:
  FrameReader frames_;
  std::optional<Frame> ahead_;
  uint64_t receivedBytes_ = 0;
  bool peerFailed_ = false;
  Notes notes_;
};

/// Gathers messages into buffers of some size before they are handed over. One thread each.
class MessageWriter {
 public:
  /// `write` is ThreadedJob::write or writeNow of the job.
  MessageWriter(std::function<Status(Bytes)> write, size_t gatherBytes)
      : write_(std::move(write)), gatherBytes_(gatherBytes) {}
  Status send(Message type, ByteSpan payload);
  Status flush();
  uint64_t sentBytes() const { return sentBytes_; }

 private:
  std::function<Status(Bytes)> write_;
  size_t gatherBytes_;
  Bytes buffer_;
  uint64_t sentBytes_ = 0;
};

/// For addContentDigests(): keeps the bytes that were read for digests in `bytes`.
inline std::function<void(uint64_t)> countHashed(uint64_t& bytes) {
  return [&bytes](uint64_t done) { bytes = done; };
}

/// Milliseconds since it was made.
class Stopwatch {
 public:
  double ms() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace deltahop
