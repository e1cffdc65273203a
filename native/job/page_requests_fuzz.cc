// Any bytes as questions about a file that was requested: refused, or answered by as many bytes as were asked for, and
// never without end.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "job/page_requests.h"
#include "wire/writer.h"

namespace {

using namespace deltahop;

constexpr uint64_t kBasisBytes = 700'000;

const Basis& basis() {
  static const Basis made = [] {
    File file(::memfd_create("basis", MFD_CLOEXEC));
    if (!file.writeAt(0, Bytes(kBasisBytes, 7)).ok()) std::abort();
    std::vector<File> files;
    files.push_back(std::move(file));
    return Basis::make(std::move(files), 512).value();
  }();
  return made;
}

}  // namespace

// Input: questions, each u8 length, payload; of those with an odd length the runs are packed here.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteSpan input(data, size);
  PageRequests requests;
  requests.add(3, {}, kBasisBytes, kBasisBytes);
  const Key key{};
  PageSums sums(basis(), key);
  uint64_t readBytes = 0;
  while (!input.empty()) {
    const size_t length = std::min<size_t>(input[0], input.size() - 1);
    const ByteSpan content = input.subspan(1, length);
    input = input.subspan(1 + length);
    Bytes payload(content.begin(), content.end());
    if (length % 2 == 1 && length > 3) {
      payload.resize(3);
      Packer packer(1);
      if (!packer.pack(payload, content.subspan(3)).ok()) std::abort();
    }
    if (!requests.ask(payload).ok()) continue;
    const auto question = requests.next(false);
    if (!question.has_value() || question->index != 3) std::abort();
    Bytes answer;
    for (const BlockRun& run : question->query.runs) {
      if (!sums.append(answer, question->query.blockShift, question->query.sumBytes, run, question->query.isRolling)
               .ok())
        std::abort();
    }
    if (answer.size() != question->query.answerBytes()) std::abort();
    readBytes += question->query.readBytes();
    if (readBytes > 8 * kBasisBytes) std::abort();
  }
  if (requests.hasQuestion()) std::abort();
  requests.close();
  if (requests.next(true).has_value()) std::abort();
  return 0;
}
