// Bytes as text.
#pragma once

#include <string>

#include "base/bytes.h"

namespace deltahop {

/// Lower-case hexadecimal.
std::string toHex(ByteSpan bytes);

/// `blake3:<64 hex digits>`, the written form of every digest.
std::string digestText(const Digest& digest);

}  // namespace deltahop
