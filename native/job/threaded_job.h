// The plumbing of a job, so that concrete jobs are straight-line code.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "job/byte_queue.h"
#include "job/job.h"

namespace deltahop {

/// A Job whose work is run() on one thread of its own. Concrete jobs are final and call stop() in their destructor, so
/// that the thread has ended before their members go.
class ThreadedJob : public Job {
 public:
  ~ThreadedJob() override;
  void start(JobListener& listener) override;
  bool writeInput(Bytes buffer) override;
  void endInput() override;
  Bytes readOutput() override;
  bool outputEnded() override;
  Bytes takeUnreadInput() override;
  void cancel() override;

 protected:
  ThreadedJob();

  /// The work. Its result becomes the job's outcome; after cancel() the outcome is kCancelled whatever it returns.
  virtual Result<JobReport> run() = 0;
  /// Told on the canceller's thread, after the queues were woken: for jobs with threads of their own.
  virtual void onCancel() {}

  /// Next input, waiting for it; empty at the end of the input. kCancelled.
  Result<Bytes> read();
  /// Hands output over, waiting while the reader lags. kCancelled. May be called from any of the job's threads. Buffers
  /// are at most 1 MiB; empty ones are dropped.
  Status write(Bytes buffer);
  /// The same without ever waiting: for whoever applies incoming data (two sides must never wait for each other).
  Status writeNow(Bytes buffer);
  /// From now on write() does not wait: a job whose one thread has failed calls it to get its other threads to their
  /// end.
  void stopWaiting() { output_.stopWaiting(); }
  /// True if read() would not have to wait for input. What was gathered for the peer should be written before waiting.
  bool inputWaiting() const { return !input_.isEmpty(); }
  /// Bytes of output that the reader has not taken yet.
  size_t outputWaiting() const { return output_.bytes(); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  /// Tells the listener, 10 times a second at the most (always if `force`). Cheap; any thread.
  void progress(const Progress& progress, bool force = false);
  /// Cancels and joins.
  void stop();

 private:
  void main();

  ByteQueue input_;
  ByteQueue output_;
  std::atomic<bool> cancelled_{false};
  JobListener* listener_ = nullptr;
  std::atomic<int64_t> nextProgressNs_{0};
  std::mutex progressMutex_;
  std::thread thread_;
};

}  // namespace deltahop
