// Reads an options object of the addon strictly: every property must be there, null where it is absent
// (src/engine/native.ts is the only caller; a missing property is a bug there).
#pragma once

#include <napi.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"

namespace deltahop::bindings {

/// The first property that is not what it must be leaves a TypeError pending; from then on ok() is false and values are
/// empty.
class Options {
 public:
  /// `owner` names the function in messages and must be a literal.
  Options(const Napi::Value& value, const char* owner);

  bool ok() const { return ok_; }
  std::string text(const char* name);
  std::optional<std::string> textOrNull(const char* name);
  std::vector<std::string> texts(const char* name);
  /// A copy of a Uint8Array.
  Bytes bytes(const char* name);
  bool flag(const char* name);
  /// An integer in [minimum, maximum].
  int64_t integer(const char* name, int64_t minimum, int64_t maximum);

 private:
  Napi::Value get(const char* name);
  void refuse(const char* name, const char* expected);
  /// A string without NUL: the system would cut a path there.
  bool toText(const Napi::Value& value, std::string& text) const;

  Napi::Env env_;
  Napi::Object object_;
  const char* owner_;
  bool ok_ = true;
};

}  // namespace deltahop::bindings
