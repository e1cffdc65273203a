#include "hash/local_hash.h"

#include <cstring>

namespace deltahop {
namespace {

__extension__ using Wide = unsigned __int128;

// Odd constants without a pattern: digits of pi (the first words of Blowfish's P array).
constexpr uint64_t kConstants[4] = {0x243F6A8885A308D3, 0x13198A2E03707345, 0xA4093822299F31D1, 0x082EFA98EC4E6C89};

uint64_t load(const uint8_t* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

// Both halves of a 128-bit product, folded: every input bit reaches every output bit.
uint64_t fold(uint64_t left, uint64_t right) {
  const Wide product = static_cast<Wide>(left) * right;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace

uint64_t localHash(ByteSpan bytes, uint64_t seed) {
  uint64_t lanes[4] = {seed ^ kConstants[0], seed ^ kConstants[1], seed ^ kConstants[2], seed ^ kConstants[3]};
  const uint8_t* at = bytes.data();
  for (size_t left = bytes.size(); left >= 64; left -= 64, at += 64) {
    for (size_t lane = 0; lane < 4; ++lane) {
      lanes[lane] = fold(load(at + 16 * lane) ^ kConstants[lane], load(at + 16 * lane + 8) ^ lanes[lane]);
    }
  }
  return fold(fold(lanes[0] ^ bytes.size(), lanes[1] ^ kConstants[1]), fold(lanes[2], lanes[3] ^ kConstants[3]));
}

}  // namespace deltahop
