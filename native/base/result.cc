#include "base/result.h"

#include <cerrno>

namespace deltahop {

Error systemError(int sysErrno, std::string context) {
  switch (sysErrno) {
    case ENOSPC:
    case EDQUOT:
      return Error{Code::kNoSpace, std::move(context), sysErrno};
    case ENOENT:
      return Error{Code::kNotFound, std::move(context), sysErrno};
    case ELOOP:
    case EXDEV:
      return Error{Code::kUnsafePath, std::move(context), sysErrno};
    default:
      return Error{Code::kIo, std::move(context), sysErrno};
  }
}

}  // namespace deltahop
