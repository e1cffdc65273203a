// Any bytes as a block of pages against a basis in memory: refused before anything is made, or made within its bounds.
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

#include "codec/fuzz_basis.h"
#include "codec/page_decoder.h"
#include "wire/writer.h"

namespace {

using namespace deltahop;

constexpr uint64_t kBasisBytes = 20 * kPageBytes + 100;
constexpr uint64_t kMaxTargetBytes = 1 << 20;

const Basis& basis() {
  static const Basis made = fuzzBasis(kBasisBytes, 512);
  return made;
}

struct Counter : DeltaSink {
  Status copy(uint64_t offset, uint64_t length) override {
    if (offset + length > kBasisBytes) std::abort();
    total += length;
    return {};
  }
  Status literal(ByteSpan data) override {
    total += data.size();
    return {};
  }
  Status zeros(uint64_t length) override {
    total += length;
    return {};
  }
  uint64_t total = 0;
};

void decode(ByteSpan block) {
  PageDecoder decoder(basis(), kMaxTargetBytes);
  for (int again = 0; again < 3; ++again) {
    Counter counter;
    const bool ok = decoder.decode(block, counter).ok();
    if (!ok && counter.total != 0) std::abort();
    if (counter.total > kMaxTargetBytes) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  decode({data, size});
  // The same as four sections that are stored, so that a fuzzer need not write zstd.
  if (size < 3) return 0;
  Bytes block;
  Writer writer(block);
  ByteSpan rest(data + 3, size - 3);
  for (size_t section = 0; section < 4; ++section) {
    const size_t length = section < 3 ? std::min<size_t>(rest.size(), data[section] * size_t{8}) : rest.size();
    writer.u8(0);
    writer.bytes(rest.first(length));
    rest = rest.subspan(length);
  }
  decode(block);
  return 0;
}
