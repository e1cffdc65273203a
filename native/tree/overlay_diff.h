// What an overlay's upper directory must hold so that, over a base, it looks like another tree.
#pragma once

#include "base/result.h"
#include "io/directory.h"
#include "tree/scan.h"
#include "tree/tree.h"

namespace deltahop {

/// Entries of `full` that are new or differ from `base` (in metadata, or in content, which is compared byte by byte),
/// with their ancestors, and a whiteout (character device 0:0) for each entry of `base` that `full` lacks. A directory
/// that keeps no name of its base is opaque (trusted.overlay.opaque=y) instead of a list of whiteouts. Hard links of
/// which one name differs come all together. Every path of the answer that is no whiteout is a path of `full`.
/// kUnsupported if `full` itself holds a whiteout: as an upper directory it would mean something else.
Result<Tree> overlayDiff(const Directory& baseRoot, const Tree& base, const Directory& fullRoot, const Tree& full,
                         const CancelCheck& cancelled = {});

}  // namespace deltahop
