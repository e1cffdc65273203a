// Any bytes as a delta stream against a basis in memory: refused or applied, never outside its bounds.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

#include "codec/delta_stream.h"
#include "codec/fuzz_basis.h"
#include "codec/patcher.h"

namespace {

using namespace deltahop;

constexpr uint64_t kBasisBytes = 20000;
constexpr uint64_t kMaxTargetBytes = 1 << 20;

const Basis& basis() {
  static const Basis made = fuzzBasis(kBasisBytes, 4096);
  return made;
}

class CountingOutput : public PatchOutput {
 public:
  Status write(ByteSpan data) override {
    total += data.size();
    return {};
  }
  Status zeros(uint64_t length) override {
    total += length;
    return {};
  }
  Status finish(uint64_t size) override {
    if (size != total) std::abort();
    return {};
  }
  uint64_t total = 0;
};

class Applier : public DeltaStreamSink {
 public:
  explicit Applier(bool streamed) : patcher_(basis(), output_, kMaxTargetBytes, streamed ? &literals_ : nullptr) {}
  Status onHeader(uint64_t) override { return {}; }
  Status onBlock(ByteSpan block) override {
    const Status status = patcher_.apply(block);
    if (output_.total > kMaxTargetBytes || output_.total != patcher_.doneBytes()) std::abort();
    return status;
  }
  Status onEnd(uint64_t targetBytes, const Digest& contentDigest) override {
    DH_TRY([[maybe_unused]] const PatchSummary summary, patcher_.finish(targetBytes, contentDigest));
    return {};
  }

 private:
  CountingOutput output_;
  LiteralStreamReader literals_;
  Patcher patcher_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const size_t split = size_t{data[0]} + 1;
  const ByteSpan stream(data + 1, size - 1);
  Applier applier((data[0] & 1) != 0);
  DeltaStreamReader reader(applier);
  for (size_t at = 0; at < stream.size(); at += split) {
    if (!reader.feed(stream.subspan(at, std::min(split, stream.size() - at))).ok()) return 0;
  }
  if (reader.expectEnd().ok() != reader.ended()) std::abort();
  return 0;
}
