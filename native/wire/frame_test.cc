#include "wire/frame.h"

#include "base/test_support.h"

namespace deltahop {
namespace {

TEST_CASE("frames come out as they went in, whatever the split") {
  TestRandom random(1);
  std::vector<Frame> frames;
  Bytes stream;
  for (const size_t payloadBytes : {0, 1, 2, 5, 100, 4096, 70000}) {
    frames.push_back({static_cast<uint8_t>(frames.size()), random.bytes(payloadBytes)});
    DH_REQUIRE_OK(writeFrame(stream, frames.back().type, frames.back().payload));
  }
  for (const size_t split : {size_t{1}, size_t{2}, size_t{3}, size_t{4}, size_t{5}, size_t{7}, size_t{11}, size_t{1000},
                             size_t{65536}, stream.size()}) {
    CAPTURE(split);
    FrameReader reader;
    size_t seen = 0;
    for (size_t at = 0; at < stream.size(); at += split) {
      reader.feed(ByteSpan(stream).subspan(at, std::min(split, stream.size() - at)));
      for (;;) {
        auto next = reader.next();
        DH_REQUIRE_OK(next);
        if (!next.value().has_value()) break;
        REQUIRE(seen < frames.size());
        CHECK(next.value()->type == frames[seen].type);
        CHECK(next.value()->payload == frames[seen].payload);
        ++seen;
      }
    }
    CHECK(seen == frames.size());
    CHECK(reader.expectEnd().ok());
  }
  // Cut inside a frame.
  FrameReader reader;
  reader.feed(ByteSpan(stream).first(stream.size() - 1));
  for (size_t i = 0; i + 1 < frames.size(); ++i) CHECK(reader.next().value().has_value());
  CHECK(!reader.next().value().has_value());
  CHECK(reader.expectEnd().error().code == Code::kTruncated);
}

TEST_CASE("frames above the bound are refused by their header alone") {
  const Bytes header = {0x01, 0x00, 0x10, 0x00};  // 1 MiB and 1
  FrameReader reader;
  reader.feed(header);
  CHECK(reader.next().error().code == Code::kLimit);
  FrameReader smaller(16);
  smaller.feed(Bytes{17, 0, 0, 0});
  CHECK(smaller.next().error().code == Code::kLimit);
  Bytes output;
  CHECK(writeFrame(output, 1, Bytes(kMaxFramePayloadBytes)).ok());
  CHECK(writeFrame(output, 1, Bytes(kMaxFramePayloadBytes + 1)).error().code == Code::kLimit);
}

}  // namespace
}  // namespace deltahop
