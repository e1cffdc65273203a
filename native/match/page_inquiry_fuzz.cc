// Any bytes as sums of a basis that nobody has, for a target in memory: asked for within the basis, and what is told
// makes a target of the right length out of bytes that the basis has.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "match/page_inquiry.h"

namespace {

using namespace deltahop;

constexpr uint64_t kTargetBytes = (1 << 20) + 3 * kPageBytes + 700;

const File& target() {
  static const File made = [] {
    File file(::memfd_create("target", MFD_CLOEXEC));
    Bytes content(kTargetBytes);
    for (size_t i = 0; i < content.size(); ++i) {
      content[i] = static_cast<uint8_t>(static_cast<uint32_t>(i / 3) * 2654435761u >> 24);
    }
    if (!file.writeAt(0, content).ok()) std::abort();
    return file;
  }();
  return made;
}

struct Counter : DeltaSink {
  explicit Counter(uint64_t bytes) : basisBytes(bytes) {}
  Status copy(uint64_t offset, uint64_t length) override {
    if (length == 0 || offset > basisBytes || length > basisBytes - offset) std::abort();
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
  uint64_t basisBytes;
  uint64_t total = 0;
};

}  // namespace

// Input: u8 flags (1: exact, 2: right sums of segments and pages first), u8 and u8 of the basis' length, the sums.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const uint64_t basisBytes = 1 + data[1] + uint64_t{data[2]} * 10'000;
  ByteSpan sums(data + 3, size - 3);
  const Key key{};
  PageInquiry::Buffers buffers;
  auto file = PageFile::open(target());
  if (!file.ok()) std::abort();
  PageInquiry inquiry(std::move(file).value(), basisBytes, {(data[0] & 1) != 0, (data[0] & 4) != 0}, key, buffers);
  const auto onProgress = [](uint64_t) { return true; };
  Counter counter(basisBytes);
  // The target's own beginning as the basis, so that the finer sums are reached.
  std::vector<File> files;
  files.push_back(File(::dup(target().fd())));
  auto own = Basis::make(std::move(files), 512);
  PageSums right(own.value(), key);
  uint64_t wanted = (basisBytes + kSumSegmentBytes - 1) / kSumSegmentBytes * kMaxSumBytes;
  if ((data[0] & 2) != 0) {
    Bytes answer;
    if (!right.append(answer, kSumSegmentShift, kMaxSumBytes, {0, wanted / kMaxSumBytes}).ok()) std::abort();
    answer.resize(wanted);
    if (!sums.empty()) answer[sums[0] % answer.size()] ^= 1;
    if (!inquiry.takeSums(answer, onProgress).ok()) std::abort();
    wanted = 0;
  }
  while (!inquiry.allTold()) {
    while (auto query = inquiry.takeQuery()) {
      SumQuery read{query->blockShift, query->sumBytes, {}};
      if (!decodeRuns(encodeRuns(*query), basisBytes, query->blocks(), read).ok()) std::abort();
      wanted += query->answerBytes();
    }
    // Bytes of the input until there are none; then whatever.
    Bytes answer(sums.begin(), sums.begin() + static_cast<ptrdiff_t>(std::min<uint64_t>(wanted, sums.size())));
    sums = sums.subspan(answer.size());
    answer.resize(wanted);
    wanted = 0;
    if (!inquiry.takeSums(answer, onProgress).ok()) std::abort();
    if (!inquiry.tell(counter, onProgress).ok()) std::abort();
  }
  if (counter.total != kTargetBytes) std::abort();
  if (inquiry.takeSums(Bytes(1), onProgress).ok()) std::abort();
  return 0;
}
