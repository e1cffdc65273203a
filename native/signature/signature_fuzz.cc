// Any bytes as a signature, cut at places that the first byte chooses: refused or parsed, and a parsed one is searched
// with.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>

#include "match/matcher.h"
#include "signature/signature.h"

namespace {

class CheckingSink : public deltahop::DeltaSink {
 public:
  explicit CheckingSink(uint64_t basisBytes) : basisBytes_(basisBytes) {}
  deltahop::Status copy(uint64_t basisOffset, uint64_t length) override {
    if (length == 0 || basisOffset > basisBytes_ || length > basisBytes_ - basisOffset) std::abort();
    total += length;
    return {};
  }
  deltahop::Status literal(deltahop::ByteSpan data) override {
    total += data.size();
    return {};
  }
  deltahop::Status zeros(uint64_t length) override {
    total += length;
    return {};
  }
  uint64_t total = 0;

 private:
  uint64_t basisBytes_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const size_t split = size_t{data[0]} + 1;
  deltahop::Bytes stream(data + 1, data + size);
  if ((data[0] & 1) != 0) {
    const deltahop::Digest digest = deltahop::blake3(stream);
    stream.insert(stream.end(), digest.begin(), digest.begin() + 16);
  }
  deltahop::SignatureParser parser{deltahop::Key{}};
  // Looked for in the input itself while it is being read.
  std::optional<deltahop::SignatureIndex> growing;
  std::optional<deltahop::Matcher> early;
  CheckingSink earlySink(UINT64_MAX);
  size_t fed = 0;
  for (size_t at = 0; at < stream.size(); at += split) {
    if (!parser.feed(deltahop::ByteSpan(stream).subspan(at, std::min(split, stream.size() - at))).ok()) return 0;
    const deltahop::Signature& known = parser.signature();
    if (known.blocks.size() < 2 || known.blockBytes > (1 << 16) || parser.ended()) continue;
    if (!growing.has_value()) {
      growing.emplace(known, false);
      early.emplace(*growing, earlySink);
    } else {
      growing->update(false);
      if (!early->resume().ok()) std::abort();
    }
    while (fed < stream.size() && !early->isStalled()) {
      const size_t count = std::min(early->room().size(), stream.size() - fed);
      if (count == 0) std::abort();
      std::copy_n(stream.begin() + static_cast<ptrdiff_t>(fed), count, early->room().begin());
      if (!early->advance(count).ok()) std::abort();
      fed += count;
    }
  }
  if (growing.has_value() && parser.ended()) {
    growing->update(true);
    if (!early->resume().ok() || !early->feed(deltahop::ByteSpan(stream).subspan(fed)).ok()) std::abort();
    if (!early->finish().ok() || earlySink.total != stream.size()) std::abort();
  }
  const auto signature = parser.finish();
  if (!signature.ok() || signature.value().blockBytes > (1 << 16)) return 0;
  const deltahop::SignatureIndex index(signature.value());
  CheckingSink sink(signature.value().basisBytes());
  deltahop::Matcher matcher(index, sink);
  // The input itself is the target, with zeros of every kind between.
  const uint64_t zeros[] = {1, 511, 513, 5000, 100000};
  uint64_t expected = 0;
  for (const uint64_t count : zeros) {
    if (!matcher.feed(stream).ok() || !matcher.feedZeros(count).ok()) std::abort();
    expected += stream.size() + count;
  }
  if (!matcher.finish().ok() || sink.total != expected) std::abort();
  return 0;
}
