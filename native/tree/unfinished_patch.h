// What a receiver that was killed while it wrote into files in place has left to be done.
#pragma once

#include "base/result.h"
#include "io/directory.h"
#include "tree/metadata.h"

namespace deltahop {

/// Applies the sealed journals (FORMATS.md section 6) in the reserved directory at `root` and removes them; a journal
/// that is void is removed and noted. Returns how many files were finished. To be called before the tree is read; the
/// files' mtimes say afterwards that they were changed just now.
Result<uint64_t> finishPatches(const Directory& root, Notes& notes);

}  // namespace deltahop
