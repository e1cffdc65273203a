// Results instead of exceptions: every function of the engine that can fail returns one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace deltahop {

/// What went wrong, in the terms of the error catalogue (src/errors.ts carries the same names with cause and remedy).
enum class Code : uint8_t {
  kInvalidArgument,  // the caller's fault: a value out of its range
  kIo,               // a system call failed; sysErrno says how
  kNoSpace,          // ENOSPC or EDQUOT
  kNotFound,         // a file or directory that had to exist does not
  kCorrupt,          // bytes that cannot be what they claim to be
  kTruncated,        // the stream ended before its end mark
  kLimit,            // a length or count above its bound
  kProtocol,         // a message that has no place here
  kUnsupported,      // a version, algorithm or file kind that this build does not know
  kMismatch,         // the digest of what was made is not the one announced
  kChanged,          // a file changed while it was read
  kUnsafePath,       // a path that would leave the tree
  kPeer,             // the other side reported a failure; context carries its words
  kCancelled,        // the caller asked to stop
};

/// One failure: its code, what was being done ("open etc/passwd"), and errno where a system call failed.
struct Error {
  Code code = Code::kIo;
  std::string context;
  int sysErrno = 0;
};

/// An Error from errno: ENOSPC and EDQUOT become kNoSpace, ENOENT kNotFound, ELOOP and EXDEV (openat2) kUnsafePath.
Error systemError(int sysErrno, std::string context);

/// A value or an Error. Check ok() before value().
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
  bool ok() const { return state_.index() == 0; }
  T& value() & { return *std::get_if<0>(&state_); }
  const T& value() const& { return *std::get_if<0>(&state_); }
  T&& value() && { return std::move(*std::get_if<0>(&state_)); }
  Error& error() & { return *std::get_if<1>(&state_); }
  const Error& error() const& { return *std::get_if<1>(&state_); }
  Error&& error() && { return std::move(*std::get_if<1>(&state_)); }

 private:
  std::variant<T, Error> state_;
};

/// Success without a value, or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}
  bool ok() const { return !error_.has_value(); }
  Error& error() & { return *error_; }
  const Error& error() const& { return *error_; }
  Error&& error() && { return std::move(*error_); }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

#define DH_CONCAT_INNER(a, b) a##b
#define DH_CONCAT(a, b) DH_CONCAT_INNER(a, b)

/// Returns the error of a Status or Result expression from the enclosing function, if it has one.
#define DH_CHECK(expression)                                \
  do {                                                      \
    auto dhStatus = (expression);                           \
    if (!dhStatus.ok()) return std::move(dhStatus).error(); \
  } while (false)

/// Declares or assigns `target` from a Result expression, or returns its error from the enclosing function.
#define DH_TRY(target, expression) DH_TRY_INNER(target, expression, DH_CONCAT(dhResult, __LINE__))
#define DH_TRY_INNER(target, expression, name)    \
  auto name = (expression);                       \
  if (!name.ok()) return std::move(name).error(); \
  target = std::move(name).value()

}  // namespace deltahop
