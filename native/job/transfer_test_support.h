// Two jobs connected by two byte pipes, which may be narrow, slow or cut.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "job/job.h"
#include "job/receive_job.h"
#include "job/send_job.h"
#include "job/transfer_message.h"
#include "wire/frame.h"

namespace deltahop {

/// One job with its events.
class JobEnd : public JobListener {
 public:
  explicit JobEnd(std::unique_ptr<Job> job) : job_(std::move(job)) { job_->start(*this); }

  Job& job() { return *job_; }
  bool ended() {
    const std::lock_guard lock(mutex_);
    return outcome_.has_value();
  }
  const Result<JobReport>& outcome() { return *outcome_; }
  double statistic(const std::string& name) {
    for (const Statistic& entry : outcome_->value().statistics) {
      if (entry.name == name) return entry.value;
    }
    FAIL("no statistic ", name);
    return -1;
  }
  /// Waits for an event, or a little.
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(20), [&] { return event_; });
    event_ = false;
  }
  /// Waits until there is room again, after writeInput() had said no.
  void waitForRoom(const std::atomic<bool>& stop) {
    std::unique_lock lock(mutex_);
    while (!drained_ && !outcome_.has_value() && !stop) changed_.wait_for(lock, std::chrono::milliseconds(20));
    drained_ = false;
  }

  void onOutput() override {
    signal([&] { event_ = true; });
  }
  void onDrain() override {
    signal([&] { drained_ = true; });
  }
  void onProgress(const Progress& progress) override {
    CHECK(progress.doneBytes <= progress.totalBytes);
    CHECK(progress.doneFiles <= progress.totalFiles);
  }
  void onFinished(Result<JobReport> outcome) override {
    signal([&] {
      outcome_.emplace(std::move(outcome));
      event_ = true;
    });
  }

 private:
  template <typename Change>
  void signal(Change change) {
    const std::lock_guard lock(mutex_);
    change();
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool event_ = false;
  bool drained_ = false;
  std::optional<Result<JobReport>> outcome_;
  std::unique_ptr<Job> job_;  // last: its threads use all of the above
};

struct PipeOptions {
  size_t pieceBytes = 64 << 10;
  uint64_t cutAfterBytes = UINT64_MAX;  // of each direction: then both jobs see the end of their input
  std::chrono::milliseconds startAfter{0};
  /// Changes bytes on their way.
  std::function<void(uint64_t offset, Bytes& bytes)> tamper;
};

/// For PipeOptions::tamper: calls `onMessage` for every message that goes by. Buffers hold whole ones.
inline std::function<void(uint64_t, Bytes&)> watch(std::function<void(Message, std::span<uint8_t>)> onMessage) {
  return [onMessage = std::move(onMessage)](uint64_t, Bytes& bytes) {
    for (size_t at = 0; at + kFrameHeaderBytes <= bytes.size();) {
      uint32_t length = 0;
      std::memcpy(&length, bytes.data() + at, sizeof length);
      REQUIRE(at + kFrameHeaderBytes + length <= bytes.size());
      onMessage(static_cast<Message>(bytes[at + 4]), std::span(bytes).subspan(at + kFrameHeaderBytes, length));
      at += kFrameHeaderBytes + length;
    }
  };
}

/// Runs a transfer to its end. The first option is for what the sender says, the second for what the receiver says.
class TransferRun {
 public:
  TransferRun(SendJobOptions send, ReceiveJobOptions receive, PipeOptions down = {}, PipeOptions up = {})
      : sender(makeSendJob(std::move(send))), receiver(makeReceiveJob(std::move(receive))) {
    tampered_ = down.tamper || up.tamper;
    std::thread there([&] { pump(sender, receiver, down, downBytes); });
    pump(receiver, sender, up, upBytes);
    there.join();
  }

  bool ok() { return sender.outcome().ok() && receiver.outcome().ok(); }
  uint64_t bytes() const { return downBytes + upBytes; }

  uint64_t downBytes = 0;
  uint64_t upBytes = 0;
  JobEnd sender;
  JobEnd receiver;

 private:
  void pump(JobEnd& from, JobEnd& to, const PipeOptions& options, uint64_t& moved) {
    std::this_thread::sleep_for(options.startAfter);
    while (!cut_) {
      const bool last = from.ended();
      Bytes output = from.job().readOutput();
      if (output.empty()) {
        if (last) break;
        from.wait();
        // A damaged length lets one side wait for what never comes; links have deadlines for that.
        if (tampered_ && std::chrono::steady_clock::now() - lastMoved_.load() > std::chrono::seconds(10)) cut_ = true;
        continue;
      }
      lastMoved_ = std::chrono::steady_clock::now();
      if (options.tamper) options.tamper(moved, output);
      for (size_t at = 0; at < output.size() && !cut_;) {
        size_t count = std::min(options.pieceBytes, output.size() - at);
        count = static_cast<size_t>(std::min<uint64_t>(count, options.cutAfterBytes - moved));
        if (count == 0) {
          cut_ = true;
          break;
        }
        const auto begin = output.begin() + static_cast<ptrdiff_t>(at);
        const bool room = to.job().writeInput(Bytes(begin, begin + static_cast<ptrdiff_t>(count)));
        at += count;
        moved += count;
        if (!room) to.waitForRoom(cut_);
      }
    }
    to.job().endInput();
    // A reader that goes on after a cut, so that nobody waits for room: what it reads is lost.
    while (!from.ended()) {
      if (from.job().readOutput().empty()) from.wait();
      if (cut_) from.job().endInput();
    }
  }

  std::atomic<bool> cut_{false};
  std::atomic<bool> tampered_{false};
  std::atomic<std::chrono::steady_clock::time_point> lastMoved_{std::chrono::steady_clock::now()};
};

}  // namespace deltahop
