// Bytes as text.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"

namespace deltahop {

/// Lower-case hexadecimal.
std::string toHex(ByteSpan bytes);

/// `blake3:<64 hex digits>`, the written form of every digest.
std::string digestText(const Digest& digest);
/// The reverse; nothing of any other text.
std::optional<Digest> digestOf(std::string_view text);

}  // namespace deltahop
