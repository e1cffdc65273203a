#include "job/byte_queue.h"

#include <utility>

namespace deltahop {

bool ByteQueue::push(Bytes buffer) {
  const std::lock_guard lock(mutex_);
  if (closed_ || cancelled_) return true;
  bytes_ += buffer.size();
  buffers_.push_back(std::move(buffer));
  changed_.notify_all();
  if (bytes_ < highWaterBytes_) return true;
  wasFull_ = true;
  return false;
}

bool ByteQueue::pushWaiting(Bytes buffer) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return bytes_ < highWaterBytes_ || !waits_ || cancelled_ || closed_; });
  if (cancelled_ || closed_) return false;
  bytes_ += buffer.size();
  buffers_.push_back(std::move(buffer));
  changed_.notify_all();
  return true;
}

std::optional<Bytes> ByteQueue::pop() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !buffers_.empty() || closed_ || cancelled_; });
  if (cancelled_ || buffers_.empty()) return std::nullopt;
  Bytes buffer = std::move(buffers_.front());
  buffers_.pop_front();
  bytes_ -= buffer.size();
  changed_.notify_all();
  return buffer;
}

Bytes ByteQueue::tryPop(size_t mergeBytes) {
  const std::lock_guard lock(mutex_);
  if (cancelled_ || buffers_.empty()) return {};
  Bytes buffer = std::move(buffers_.front());
  buffers_.pop_front();
  bytes_ -= buffer.size();
  while (!buffers_.empty() && buffer.size() + buffers_.front().size() <= mergeBytes) {
    const Bytes& next = buffers_.front();
    buffer.insert(buffer.end(), next.begin(), next.end());
    bytes_ -= next.size();
    buffers_.pop_front();
  }
  changed_.notify_all();
  return buffer;
}

bool ByteQueue::takeDrained() {
  const std::lock_guard lock(mutex_);
  if (!wasFull_ || bytes_ > highWaterBytes_ / 2) return false;
  wasFull_ = false;
  return true;
}

void ByteQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

void ByteQueue::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  buffers_.clear();
  bytes_ = 0;
  changed_.notify_all();
}

void ByteQueue::stopWaiting() {
  const std::lock_guard lock(mutex_);
  waits_ = false;
  changed_.notify_all();
}

bool ByteQueue::isEmpty() const {
  const std::lock_guard lock(mutex_);
  return buffers_.empty();
}

size_t ByteQueue::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

bool ByteQueue::isEnded() const {
  const std::lock_guard lock(mutex_);
  return cancelled_ || (closed_ && buffers_.empty());
}

}  // namespace deltahop
