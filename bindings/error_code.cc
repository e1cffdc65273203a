#include "error_code.h"

#include <string>
#include <system_error>

namespace deltahop::bindings {

namespace {

std::string printable(const std::string& text) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string escaped;
  escaped.reserve(text.size());
  for (const char character : text) {
    const auto byte = static_cast<uint8_t>(character);
    if (byte >= 0x20 && byte != 0x7f) {
      escaped.push_back(character);
    } else {
      escaped.append("\\x").push_back(kDigits[byte >> 4]);
      escaped.push_back(kDigits[byte & 15]);
    }
  }
  return escaped;
}

}  // namespace

// No default: the compiler (-Werror=switch) refuses a code without a name.
const char* errorCodeName(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
      return "DELTAHOP_E_INVALID_ARGUMENT";
    case Code::kIo:
      return "DELTAHOP_E_IO";
    case Code::kNoSpace:
      return "DELTAHOP_E_NO_SPACE";
    case Code::kNotFound:
      return "DELTAHOP_E_NOT_FOUND";
    case Code::kCorrupt:
      return "DELTAHOP_E_CORRUPT";
    case Code::kTruncated:
      return "DELTAHOP_E_TRUNCATED";
    case Code::kLimit:
      return "DELTAHOP_E_LIMIT";
    case Code::kProtocol:
      return "DELTAHOP_E_PROTOCOL";
    case Code::kUnsupported:
      return "DELTAHOP_E_UNSUPPORTED";
    case Code::kMismatch:
      return "DELTAHOP_E_MISMATCH";
    case Code::kChanged:
      return "DELTAHOP_E_CHANGED";
    case Code::kUnsafePath:
      return "DELTAHOP_E_UNSAFE_PATH";
    case Code::kPeer:
      return "DELTAHOP_E_PEER";
    case Code::kCancelled:
      return "DELTAHOP_E_CANCELLED";
  }
  return nullptr;
}

Napi::Array errorCodeNames(Napi::Env env) {
  Napi::Array names = Napi::Array::New(env);
  for (uint8_t number = 0; const char* name = errorCodeName(static_cast<Code>(number)); ++number) {
    names.Set(uint32_t{number}, Napi::String::New(env, name));
  }
  return names;
}

Napi::Object errorObject(Napi::Env env, const Error& error) {
  std::string message = error.context;
  if (error.sysErrno != 0) message += ": " + std::system_category().message(error.sysErrno);
  Napi::Object object = Napi::Object::New(env);
  object.Set("code", Napi::String::New(env, errorCodeName(error.code)));
  object.Set("message", Napi::String::New(env, printable(message)));
  object.Set("sysErrno", error.sysErrno != 0 ? Napi::Number::New(env, error.sysErrno) : env.Null());
  return object;
}

}  // namespace deltahop::bindings
