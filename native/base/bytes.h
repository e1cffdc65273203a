// The two shapes in which the engine hands bytes around.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace deltahop {

using ByteSpan = std::span<const uint8_t>;
using Bytes = std::vector<uint8_t>;

/// A BLAKE3-256 digest.
using Digest = std::array<uint8_t, 32>;

/// A BLAKE3 key, drawn afresh for each session.
using Key = std::array<uint8_t, 32>;

}  // namespace deltahop
