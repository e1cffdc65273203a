// Any bytes as frames, in two different splits: the same frames or the same refusal, and written again the same bytes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "wire/frame.h"

namespace {

using namespace deltahop;

struct Outcome {
  Bytes rewritten;
  bool refused = false;
  bool complete = false;
  bool operator==(const Outcome&) const = default;
};

Outcome readAll(ByteSpan stream, size_t split) {
  Outcome outcome;
  FrameReader reader(4096);
  for (size_t at = 0; at < stream.size(); at += split) {
    reader.feed(stream.subspan(at, std::min(split, stream.size() - at)));
    for (;;) {
      const auto next = reader.next();
      if (!next.ok()) {
        outcome.refused = true;
        return outcome;
      }
      if (!next.value().has_value()) break;
      if (!writeFrame(outcome.rewritten, next.value()->type, next.value()->payload).ok()) std::abort();
    }
  }
  outcome.complete = reader.expectEnd().ok();
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const ByteSpan stream(data + 1, size - 1);
  const Outcome whole = readAll(stream, std::max<size_t>(stream.size(), 1));
  const Outcome parts = readAll(stream, size_t{data[0]} + 1);
  if (!(whole == parts)) std::abort();
  if (!std::equal(whole.rewritten.begin(), whole.rewritten.end(), stream.begin())) std::abort();
  if (whole.complete && whole.rewritten.size() != stream.size()) std::abort();
  return 0;
}
