// The addon's export table.
#include <napi.h>

#include <string>

#include "base/hex.h"
#include "error_code.h"
#include "hash/blake3.h"
#include "hash/kernels.h"
#include "io/directory.h"
#include "job_functions.h"
#include "options.h"

namespace deltahop::bindings {

namespace {

// Raised with every change of what src/engine/native.ts declares; src/engine/loader.ts refuses another number.
constexpr uint32_t kAbiVersion = 3;

const char* foundName(Directory::Found found) {
  switch (found) {
    case Directory::Found::kNowhere:
      return "nowhere";
    case Directory::Found::kNothing:
      return "nothing";
    case Directory::Found::kDirectory:
      return "directory";
    case Directory::Found::kOther:
      return "other";
  }
  return "other";
}

Napi::Value digest(const Napi::CallbackInfo& info) {
  if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    Napi::TypeError::New(info.Env(), "digest: bytes must be a Uint8Array").ThrowAsJavaScriptException();
    return info.Env().Undefined();
  }
  const Napi::Uint8Array array = info[0].As<Napi::Uint8Array>();
  return Napi::String::New(info.Env(), digestText(blake3(ByteSpan(array.Data(), array.ByteLength()))));
}

// {found, error}, one of them null: one look at one path, quick enough for the JavaScript thread.
Napi::Value lookUp(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Options from(info[0], "lookUp");
  const std::string rootPath = from.text("rootPath");
  const std::string beneath = from.text("beneath");
  if (!from.ok()) return env.Undefined();
  const auto look = [&]() -> Result<Directory::Found> {
    DH_TRY(const Directory root, Directory::openRoot(rootPath));
    return root.lookUp(beneath);
  };
  const auto found = look();
  Napi::Object answer = Napi::Object::New(env);
  answer.Set("error", found.ok() ? env.Null() : errorObject(env, found.error()));
  answer.Set("found", found.ok() ? Napi::String::New(env, foundName(found.value())) : env.Null());
  return answer;
}

// {inUse, available}: what inner loops run, and what could.
Napi::Object kernelNames(Napi::Env env) {
  Napi::Array available = Napi::Array::New(env);
  for (const Kernels& set : availableKernels()) available.Set(available.Length(), set.name);
  Napi::Object names = Napi::Object::New(env);
  names.Set("inUse", kernels().name);
  names.Set("available", available);
  return names;
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  exports.Set("abiVersion", kAbiVersion);
  exports.Set("errorCodes", errorCodeNames(env));
  exports.Set("kernels", kernelNames(env));
  exports.Set("digest", Napi::Function::New(env, digest, "digest"));
  exports.Set("lookUp", Napi::Function::New(env, lookUp, "lookUp"));
  defineJobFunctions(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(deltahop, initialize)

}  // namespace deltahop::bindings
