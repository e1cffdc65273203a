// Any bytes as a signature, cut at places that the first byte chooses: refused or parsed, and a parsed one is searched
// with.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

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
  for (size_t at = 0; at < stream.size(); at += split) {
    if (!parser.feed(deltahop::ByteSpan(stream).subspan(at, std::min(split, stream.size() - at))).ok()) return 0;
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
