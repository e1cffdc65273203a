#include "options.h"

namespace deltahop::bindings {

Options::Options(const Napi::Value& value, const char* owner) : env_(value.Env()), owner_(owner) {
  if (value.IsObject()) {
    object_ = value.As<Napi::Object>();
  } else {
    refuse("options", "an object");
  }
}

void Options::refuse(const char* name, const char* expected) {
  if (!ok_) return;
  ok_ = false;
  if (env_.IsExceptionPending()) return;
  const std::string message = std::string(owner_) + ": " + name + " must be " + expected;
  Napi::TypeError::New(env_, message).ThrowAsJavaScriptException();
}

Napi::Value Options::get(const char* name) {
  if (!ok_) return env_.Undefined();
  const Napi::Value value = object_.Get(name);
  if (env_.IsExceptionPending()) {
    ok_ = false;
    return env_.Undefined();
  }
  return value;
}

bool Options::toText(const Napi::Value& value, std::string& text) const {
  if (!value.IsString()) return false;
  text = value.As<Napi::String>().Utf8Value();
  return text.find('\0') == std::string::npos;
}

std::string Options::text(const char* name) {
  std::string result;
  if (!toText(get(name), result)) refuse(name, "a string without NUL");
  return result;
}

std::optional<std::string> Options::textOrNull(const char* name) {
  const Napi::Value value = get(name);
  if (ok_ && value.IsNull()) return std::nullopt;
  std::string result;
  if (!toText(value, result)) refuse(name, "a string without NUL, or null");
  return result;
}

std::vector<std::string> Options::texts(const char* name) {
  const Napi::Value value = get(name);
  if (!value.IsArray()) {
    refuse(name, "an array of strings");
    return {};
  }
  const Napi::Array array = value.As<Napi::Array>();
  std::vector<std::string> result(array.Length());
  for (uint32_t i = 0; i < result.size(); ++i) {
    if (!toText(array.Get(i), result[i])) {
      refuse(name, "an array of strings without NUL");
      return {};
    }
  }
  return result;
}

Bytes Options::bytes(const char* name) {
  const Napi::Value value = get(name);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    refuse(name, "a Uint8Array");
    return {};
  }
  const Napi::Uint8Array array = value.As<Napi::Uint8Array>();
  return Bytes(array.Data(), array.Data() + array.ByteLength());
}

bool Options::flag(const char* name) {
  const Napi::Value value = get(name);
  if (!value.IsBoolean()) {
    refuse(name, "a boolean");
    return false;
  }
  return value.As<Napi::Boolean>().Value();
}

int64_t Options::integer(const char* name, int64_t minimum, int64_t maximum) {
  const Napi::Value value = get(name);
  if (value.IsNumber()) {
    const double number = value.As<Napi::Number>().DoubleValue();
    // Written so that NaN fails too.
    if (number >= static_cast<double>(minimum) && number <= static_cast<double>(maximum)) {
      const auto integer = static_cast<int64_t>(number);
      if (static_cast<double>(integer) == number) return integer;
    }
  }
  const std::string expected = "an integer from " + std::to_string(minimum) + " to " + std::to_string(maximum);
  refuse(name, expected.c_str());
  return minimum;
}

}  // namespace deltahop::bindings
