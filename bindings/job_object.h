// The JavaScript class `Job`: any job of the engine.
#pragma once

#include <napi.h>

#include <memory>

#include "event_relay.h"
#include "job/job.h"

namespace deltahop::bindings {

/// `write(Uint8Array) -> boolean`, `endInput()`, `read() -> Buffer | null`, `outputEnded() -> boolean`,
/// `unreadInput() -> Buffer | null` (what a finished job was given and did not read), `cancel()`, and `close()`, by
/// which a finished job lets go of its files and memory; left out, the garbage collector does it some day. Whatever
/// ends first - the job, the object, its environment or the process - no thread of the job outlives the one that could
/// hear of it.
class JobObject : public Napi::ObjectWrap<JobObject> {
 public:
  /// The class, to be kept by the environment.
  static Napi::Function define(Napi::Env env);
  /// Starts `job` and gives the object that stands for it; events go to `callback` (see EventRelay).
  static Napi::Value start(const Napi::FunctionReference& jobClass, std::unique_ptr<Job> job,
                           const Napi::Value& callback);

  /// Called by Node-API only, for start(); from JavaScript it throws.
  explicit JobObject(const Napi::CallbackInfo& info);
  ~JobObject() override;

  /// The object behind `value`; null, with a TypeError pending, if it is not a Job.
  static JobObject* Unwrap(Napi::Object value);

 private:
  class RunningJobs;

  static void endWithEnvironment(void* self);
  void endNow();

  Napi::Value write(const Napi::CallbackInfo& info);
  void endInput(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value outputEnded(const Napi::CallbackInfo& info);
  Napi::Value unreadInput(const Napi::CallbackInfo& info);
  void cancel(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);

  std::shared_ptr<EventRelay> relay_;
  std::unique_ptr<Job> job_;  // after the relay, which must outlive it
};

}  // namespace deltahop::bindings
