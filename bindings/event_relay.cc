#include "event_relay.h"

#include <utility>

#include "error_code.h"

namespace deltahop::bindings {

namespace {

Napi::Object progressObject(Napi::Env env, const Progress& progress) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("doneBytes", static_cast<double>(progress.doneBytes));
  object.Set("totalBytes", static_cast<double>(progress.totalBytes));
  object.Set("doneFiles", static_cast<double>(progress.doneFiles));
  object.Set("totalFiles", static_cast<double>(progress.totalFiles));
  return object;
}

Napi::Object reportObject(Napi::Env env, const JobReport& report) {
  Napi::Object statistics = Napi::Object::New(env);
  for (const Statistic& statistic : report.statistics) statistics.Set(statistic.name, statistic.value);
  Napi::Array notes = Napi::Array::New(env, report.notes.size());
  for (uint32_t i = 0; i < report.notes.size(); ++i) notes.Set(i, report.notes[i]);
  Napi::Object object = Napi::Object::New(env);
  object.Set("statistics", statistics);
  object.Set("notes", notes);
  object.Set("text", report.text);
  return object;
}

}  // namespace

std::shared_ptr<EventRelay> EventRelay::create(Napi::Env env, const Napi::Function& callback) {
  auto relay = std::make_shared<EventRelay>();
  // The wake-up owns a share: one that is still queued when the job object is gone must find the relay alive.
  auto* owner = new Owner(relay);
  relay->wakeup_ =
      Wakeup::New(env, callback, "deltahop.Job", 0, 1, owner, [](Napi::Env, void*, Owner* share) { delete share; });
  if (env.IsExceptionPending()) return nullptr;
  relay->isOpen_ = true;
  return relay;
}

void EventRelay::onProgress(const Progress& progress) {
  {
    const std::lock_guard lock(mutex_);
    progress_ = progress;
  }
  raise(kProgress);
}

void EventRelay::onFinished(Result<JobReport> outcome) {
  {
    const std::lock_guard lock(mutex_);
    outcome_.emplace(std::move(outcome));
  }
  raise(kFinished);
}

void EventRelay::raise(uint8_t events) {
  const std::lock_guard lock(mutex_);
  if (!isOpen_) return;
  raised_ |= events;
  if (isWaking_) return;
  // The queue has no bound, so this fails only while the environment goes down, when nobody listens any more.
  isWaking_ = wakeup_.NonBlockingCall() == napi_ok;
}

void EventRelay::close() {
  const std::lock_guard lock(mutex_);
  if (!isOpen_) return;
  isOpen_ = false;
  wakeup_.Release();
}

void EventRelay::deliver(Napi::Env env, Napi::Function callback, Owner* owner, void*) {
  // Node-API calls without an environment to let queued data be freed at its end; there is none.
  if (napi_env(env) == nullptr) return;
  const Owner relay = *owner;
  uint8_t events;
  {
    const std::lock_guard lock(relay->mutex_);
    if (!relay->isOpen_) return;
    relay->isWaking_ = false;
    events = std::exchange(relay->raised_, uint8_t{0});
  }
  relay->tell(env, callback, events);
}

void EventRelay::tell(Napi::Env env, const Napi::Function& callback, uint8_t events) {
  const Napi::HandleScope scope(env);
  for (const Event event : {kOutput, kDrain, kProgress, kFinished}) {
    if ((events & event) == 0) continue;
    switch (event) {
      case kOutput:
        callback.Call({Napi::String::New(env, "output"), env.Null()});
        break;
      case kDrain:
        callback.Call({Napi::String::New(env, "drain"), env.Null()});
        break;
      case kProgress: {
        Progress progress;
        {
          const std::lock_guard lock(mutex_);
          progress = progress_;
        }
        callback.Call({Napi::String::New(env, "progress"), progressObject(env, progress)});
        break;
      }
      case kFinished: {
        std::optional<Result<JobReport>> outcome;
        {
          const std::lock_guard lock(mutex_);
          outcome.swap(outcome_);
        }
        close();
        if (outcome->ok()) {
          callback.Call({Napi::String::New(env, "finished"), reportObject(env, outcome->value())});
        } else {
          callback.Call({Napi::String::New(env, "failed"), errorObject(env, outcome->error())});
        }
        break;
      }
    }
    if (!env.IsExceptionPending()) continue;
    // As with any callback of Node: uncaught, unless somebody handles those. Left alone, Node 20 would only warn.
    const Napi::Error error = env.GetAndClearPendingException();
    napi_fatal_exception(env, error.Value());
  }
}

}  // namespace deltahop::bindings
