// Carries a job's events from its threads to one JavaScript callback.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "job/job.h"

namespace deltahop::bindings {

/// Calls `callback(kind, value)` on the JavaScript thread: ('output', null), ('drain', null), ('progress', {...}), and
/// last ('finished', {statistics, notes, text}) or ('failed', {code, message, sysErrno}). However many events a job's
/// threads raise, at most one wake-up is under way and each kind is told once per wake-up. A running job keeps the
/// event loop alive; a finished one does not.
class EventRelay final : public JobListener {
 public:
  /// JavaScript thread. Null, with an exception pending, if Node-API refuses.
  static std::shared_ptr<EventRelay> create(Napi::Env env, const Napi::Function& callback);

  // Any thread.
  void onOutput() override { raise(kOutput); }
  void onDrain() override { raise(kDrain); }
  void onProgress(const Progress& progress) override;
  void onFinished(Result<JobReport> outcome) override;

  /// JavaScript thread: no event is told any more, and the event loop is not kept alive.
  void close();

 private:
  enum Event : uint8_t { kOutput = 1, kDrain = 2, kProgress = 4, kFinished = 8 };
  using Owner = std::shared_ptr<EventRelay>;
  static void deliver(Napi::Env env, Napi::Function callback, Owner* relay, void* unused);
  using Wakeup = Napi::TypedThreadSafeFunction<Owner, void, deliver>;

  void raise(uint8_t events);
  void tell(Napi::Env env, const Napi::Function& callback, uint8_t events);

  std::mutex mutex_;
  Wakeup wakeup_;
  bool isOpen_ = false;
  bool isWaking_ = false;
  uint8_t raised_ = 0;
  Progress progress_;
  std::optional<Result<JobReport>> outcome_;
};

}  // namespace deltahop::bindings
