// A fast hash for bytes that are all here: it only guesses, comparing the bytes decides.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace deltahop {

/// 64 bits of a run of bytes whose length is a multiple of 64. Never sent, never stored, no defence against anybody.
uint64_t localHash(ByteSpan bytes, uint64_t seed = 0);

}  // namespace deltahop
