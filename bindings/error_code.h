// The engine's error codes under the names of the catalogue in src/errors.ts.
#pragma once

#include <napi.h>

#include "base/result.h"

namespace deltahop::bindings {

/// `DELTAHOP_E_...` of a code; nullptr for a number that is no code.
const char* errorCodeName(Code code);

/// Every name that errorCodeName() gives, as an array of strings: a test holds it against the catalogue.
Napi::Array errorCodeNames(Napi::Env env);

/// {code, message, sysErrno: number | null}. The message is one line of printable text whatever the error's context
/// holds: names of files come from outside.
Napi::Object errorObject(Napi::Env env, const Error& error);

}  // namespace deltahop::bindings
