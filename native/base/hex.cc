#include "base/hex.h"

namespace deltahop {
namespace {

constexpr std::string_view kDigits = "0123456789abcdef";
constexpr std::string_view kDigestPrefix = "blake3:";

}  // namespace

std::string toHex(ByteSpan bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string digestText(const Digest& digest) {
  return std::string(kDigestPrefix) + toHex(digest);
}

std::optional<Digest> digestOf(std::string_view text) {
  Digest digest{};
  if (text.size() != kDigestPrefix.size() + 2 * digest.size() || !text.starts_with(kDigestPrefix)) return std::nullopt;
  text.remove_prefix(kDigestPrefix.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t value = kDigits.find(text[i]);
    if (value == std::string_view::npos) return std::nullopt;
    digest[i / 2] = static_cast<uint8_t>(digest[i / 2] << 4 | value);
  }
  return digest;
}

}  // namespace deltahop
