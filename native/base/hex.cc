#include "base/hex.h"

namespace deltahop {

std::string toHex(ByteSpan bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string digestText(const Digest& digest) {
  return "blake3:" + toHex(digest);
}

}  // namespace deltahop
