#include "job/threaded_job.h"

#include <new>
#include <utility>

namespace deltahop {
namespace {

constexpr size_t kInputHighWaterBytes = 4 << 20;
constexpr size_t kOutputHighWaterBytes = 4 << 20;
constexpr size_t kMaxOutputBufferBytes = 1 << 20;
// Small pieces of output are joined up to this: each one costs a crossing into JavaScript.
constexpr size_t kOutputMergeBytes = 256 * 1024;
constexpr int64_t kProgressEveryNs = 100'000'000;

int64_t nowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

ThreadedJob::ThreadedJob() : input_(kInputHighWaterBytes), output_(kOutputHighWaterBytes) {}

ThreadedJob::~ThreadedJob() {
  stop();
}

void ThreadedJob::start(JobListener& listener) {
  listener_ = &listener;
  thread_ = std::thread([this] { main(); });
}

void ThreadedJob::main() {
  // The one place where an exception could leave the engine: memory that cannot be had.
  Result<JobReport> outcome = Error{Code::kLimit, "out of memory"};
  try {
    outcome = run();
  } catch (const std::bad_alloc&) {
  }
  if (cancelled()) outcome = Error{Code::kCancelled, "cancelled"};
  output_.close();
  listener_->onFinished(std::move(outcome));
}

bool ThreadedJob::writeInput(Bytes buffer) {
  if (buffer.empty()) return true;
  return input_.push(std::move(buffer));
}

void ThreadedJob::endInput() {
  input_.close();
}

Bytes ThreadedJob::readOutput() {
  return output_.tryPop(kOutputMergeBytes);
}

Bytes ThreadedJob::takeUnreadInput() {
  return input_.tryPop(kOutputMergeBytes);
}

bool ThreadedJob::outputEnded() {
  return output_.isEnded();
}

void ThreadedJob::cancel() {
  cancelled_.store(true, std::memory_order_relaxed);
  input_.cancel();
  output_.cancel();
  onCancel();
}

Result<Bytes> ThreadedJob::read() {
  std::optional<Bytes> buffer = input_.pop();
  if (cancelled()) return Error{Code::kCancelled, "cancelled"};
  if (!buffer.has_value()) return Bytes();
  if (input_.takeDrained()) listener_->onDrain();
  return std::move(*buffer);
}

Status ThreadedJob::write(Bytes buffer) {
  if (buffer.empty()) return {};
  if (buffer.size() > kMaxOutputBufferBytes) return Error{Code::kLimit, "output buffer too large"};
  if (!output_.pushWaiting(std::move(buffer))) return Error{Code::kCancelled, "cancelled"};
  listener_->onOutput();
  return {};
}

Status ThreadedJob::writeNow(Bytes buffer) {
  if (buffer.empty()) return {};
  if (buffer.size() > kMaxOutputBufferBytes) return Error{Code::kLimit, "output buffer too large"};
  if (cancelled()) return Error{Code::kCancelled, "cancelled"};
  output_.push(std::move(buffer));
  listener_->onOutput();
  return {};
}

void ThreadedJob::progress(const Progress& progress, bool force) {
  const int64_t now = nowNs();
  if (!force && now < nextProgressNs_.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(progressMutex_);
  nextProgressNs_.store(now + kProgressEveryNs, std::memory_order_relaxed);
  listener_->onProgress(progress);
}

void ThreadedJob::stop() {
  if (!thread_.joinable()) return;
  cancel();
  thread_.join();
}

}  // namespace deltahop
