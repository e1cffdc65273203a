#include "job_object.h"

#include <exception>
#include <mutex>
#include <unordered_set>
#include <utility>

namespace deltahop::bindings {

namespace {

// Drawn at random: two types never share a tag by accident.
constexpr napi_type_tag kJobTag = {0x6f1c7a52d08e4b93, 0xa4e35bb2790c4d16};
constexpr napi_type_tag kMaterialsTag = {0x1d9be7c3046f4a58, 0xb7205c9e8d13f642};

// Below this a copy is cheaper than a buffer with a finalizer of its own.
constexpr size_t kMinExternalBytes = 4096;

struct Materials {
  std::unique_ptr<Job> job;
  Napi::Function callback;
};

Napi::Value toBuffer(Napi::Env env, Bytes bytes) {
  if (bytes.empty()) return env.Null();
  if (bytes.size() < kMinExternalBytes) return Napi::Buffer<uint8_t>::Copy(env, bytes.data(), bytes.size());
  auto* owned = new Bytes(std::move(bytes));
  // V8 cannot see this memory: told of it, it collects the buffers before they pile up.
  const auto size = static_cast<int64_t>(owned->size());
  Napi::MemoryManagement::AdjustExternalMemory(env, size);
  return Napi::Buffer<uint8_t>::New(
      env, owned->data(), owned->size(),
      [](Napi::Env finalizerEnv, uint8_t*, Bytes* held) {
        Napi::MemoryManagement::AdjustExternalMemory(finalizerEnv, -static_cast<int64_t>(held->size()));
        delete held;
      },
      owned);
}

}  // namespace

// process.exit() ends the process without ending the environment first: whatever runs then must be stopped before the
// engine's static objects go.
class JobObject::RunningJobs {
 public:
  static RunningJobs& instance() {
    static RunningJobs jobs;
    return jobs;
  }
  ~RunningJobs() {
    while (!jobs_.empty()) (*jobs_.begin())->endNow();
  }
  void add(JobObject* job) {
    const std::lock_guard lock(mutex_);
    jobs_.insert(job);
  }
  void remove(JobObject* job) {
    const std::lock_guard lock(mutex_);
    jobs_.erase(job);
  }

 private:
  std::mutex mutex_;  // worker threads of Node have environments of their own
  std::unordered_set<JobObject*> jobs_;
};

Napi::Function JobObject::define(Napi::Env env) {
  RunningJobs::instance();
  return DefineClass(env, "Job",
                     {
                         InstanceMethod<&JobObject::write>("write"),
                         InstanceMethod<&JobObject::endInput>("endInput"),
                         InstanceMethod<&JobObject::read>("read"),
                         InstanceMethod<&JobObject::outputEnded>("outputEnded"),
                         InstanceMethod<&JobObject::unreadInput>("unreadInput"),
                         InstanceMethod<&JobObject::cancel>("cancel"),
                         InstanceMethod<&JobObject::close>("close"),
                     });
}

Napi::Value JobObject::start(const Napi::FunctionReference& jobClass, std::unique_ptr<Job> job,
                             const Napi::Value& callback) {
  const Napi::Env env = callback.Env();
  if (!callback.IsFunction()) {
    Napi::TypeError::New(env, "the event callback must be a function").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  Materials materials{std::move(job), callback.As<Napi::Function>()};
  Napi::External<Materials> external = Napi::External<Materials>::New(env, &materials);
  external.TypeTag(&kMaterialsTag);
  return jobClass.New({external});
}

JobObject::JobObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<JobObject>(info) {
  const Napi::Env env = info.Env();
  if (info.Length() != 1 || !info[0].IsExternal() ||
      !info[0].As<Napi::External<Materials>>().CheckTypeTag(&kMaterialsTag)) {
    Napi::TypeError::New(env, "a Job is made by the addon's functions only").ThrowAsJavaScriptException();
    return;
  }
  Materials& materials = *info[0].As<Napi::External<Materials>>().Data();
  info.This().As<Napi::Object>().TypeTag(&kJobTag);
  relay_ = EventRelay::create(env, materials.callback);
  if (relay_ == nullptr) return;
  job_ = std::move(materials.job);
  // Hooks run last in, first out: this one runs before the relay's thread-safe function is torn down.
  napi_add_env_cleanup_hook(env, endWithEnvironment, this);
  RunningJobs::instance().add(this);
  try {
    job_->start(*relay_);
  } catch (const std::exception& error) {  // no thread, no memory
    endNow();
    Napi::Error::New(env, std::string("cannot start the job: ") + error.what()).ThrowAsJavaScriptException();
  }
}

JobObject::~JobObject() {
  endNow();
}

JobObject* JobObject::Unwrap(Napi::Object value) {
  if (value.IsObject() && value.CheckTypeTag(&kJobTag)) return Napi::ObjectWrap<JobObject>::Unwrap(value);
  if (!value.Env().IsExceptionPending()) {
    Napi::TypeError::New(value.Env(), "this is not a Job").ThrowAsJavaScriptException();
  }
  return nullptr;
}

void JobObject::endWithEnvironment(void* self) {
  static_cast<JobObject*>(self)->endNow();
}

// Cancels the job and waits for its threads. The object may stay behind, without a job.
void JobObject::endNow() {
  if (job_ == nullptr) return;
  relay_->close();
  job_.reset();
  RunningJobs::instance().remove(this);
  napi_remove_env_cleanup_hook(Env(), endWithEnvironment, this);
}

Napi::Value JobObject::write(const Napi::CallbackInfo& info) {
  if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    Napi::TypeError::New(info.Env(), "write: bytes must be a Uint8Array").ThrowAsJavaScriptException();
    return info.Env().Undefined();
  }
  const Napi::Uint8Array array = info[0].As<Napi::Uint8Array>();
  const bool takesMore = job_ == nullptr || job_->writeInput(Bytes(array.Data(), array.Data() + array.ByteLength()));
  return Napi::Boolean::New(info.Env(), takesMore);
}

void JobObject::endInput(const Napi::CallbackInfo&) {
  if (job_ != nullptr) job_->endInput();
}

Napi::Value JobObject::read(const Napi::CallbackInfo& info) {
  return toBuffer(info.Env(), job_ == nullptr ? Bytes() : job_->readOutput());
}

Napi::Value JobObject::outputEnded(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), job_ == nullptr || job_->outputEnded());
}

Napi::Value JobObject::unreadInput(const Napi::CallbackInfo& info) {
  return toBuffer(info.Env(), job_ == nullptr ? Bytes() : job_->takeUnreadInput());
}

void JobObject::cancel(const Napi::CallbackInfo&) {
  if (job_ != nullptr) job_->cancel();
}

void JobObject::close(const Napi::CallbackInfo&) {
  endNow();
}

}  // namespace deltahop::bindings
