// A bounded queue of buffers between two threads.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>

#include "base/bytes.h"

namespace deltahop {

/// Bounded in bytes by a high-water mark that is advice for push() (which always takes the buffer) and a rule for
/// pushWaiting(). After close() nothing more goes in; after cancel() nothing goes in or out and no call waits.
class ByteQueue {
 public:
  explicit ByteQueue(size_t highWaterBytes) : highWaterBytes_(highWaterBytes) {}

  /// Takes the buffer; false if the queue is now at or over the high-water mark.
  bool push(Bytes buffer);
  /// Waits while the queue is at or over the mark. False if cancelled.
  bool pushWaiting(Bytes buffer);
  /// Waits for a buffer. Nothing: closed and empty, or cancelled.
  std::optional<Bytes> pop();
  /// A buffer if there is one; small neighbours are merged up to `mergeBytes`.
  Bytes tryPop(size_t mergeBytes);
  /// True exactly once after push() had returned false and the queue has fallen to half the mark.
  bool takeDrained();
  void close();
  void cancel();
  /// From now on pushWaiting() takes everything at once: for a writer that must come to its end.
  void stopWaiting();
  bool isEmpty() const;
  size_t bytes() const;
  /// Closed and everything taken.
  bool isEnded() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Bytes> buffers_;
  size_t bytes_ = 0;
  size_t highWaterBytes_;
  bool wasFull_ = false;
  bool closed_ = false;
  bool cancelled_ = false;
  bool waits_ = true;
};

}  // namespace deltahop
