#include "hash/content_digest.h"

#include "base/test_support.h"
#include "io/file.h"

namespace deltahop {
namespace {

// FORMATS.md section 1, word for word.
Digest fromSpecification(ByteSpan content) {
  Bytes outer;
  for (size_t at = 0; at < content.size(); at += 1 << 20) {
    const Digest segment = blake3(content.subspan(at, std::min<size_t>(1 << 20, content.size() - at)));
    outer.insert(outer.end(), segment.begin(), segment.end());
  }
  for (size_t i = 0; i < 8; ++i) outer.push_back(static_cast<uint8_t>(uint64_t{content.size()} >> (8 * i)));
  return blake3(outer);
}

TEST_CASE("content digest: any mix of bytes and counted zeros") {
  TestRandom random(1);
  for (const size_t length : {0, 1, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20, (3 << 20) + 77}) {
    CAPTURE(length);
    Bytes content = random.bytes(length);
    for (size_t i = length / 5; i < length * 4 / 5; ++i) content[i] = 0;
    const Digest expected = fromSpecification(content);
    ContentHasher whole;
    whole.update(content);
    CHECK(whole.size() == length);
    CHECK(whole.finish() == expected);
    for (int round = 0; round < 5; ++round) {
      ContentHasher hasher;
      size_t at = 0;
      while (at < length) {
        const size_t piece = std::min<size_t>(length - at, 1 + random.below(700000));
        const ByteSpan part = ByteSpan(content).subspan(at, piece);
        if (isZero(part)) {
          hasher.updateZeros(piece);
        } else {
          hasher.update(part);
        }
        at += piece;
      }
      CHECK(hasher.finish() == expected);
    }
  }
}

TEST_CASE("content digest of a file: holes count as zeros and are not read") {
  const TestDirectory directory;
  TestRandom random(2);
  Bytes content(5 << 20);
  const Bytes data = random.bytes(10000);
  std::copy(data.begin(), data.end(), content.begin() + (2 << 20) + 4096);
  File file = openTestFile(directory.path("sparse"));
  DH_REQUIRE_OK(file.truncate(content.size()));
  DH_REQUIRE_OK(file.writeAt((2 << 20) + 4096, data));
  const auto digest = contentDigest(file);
  DH_REQUIRE_OK(digest);
  CHECK(digest.value() == fromSpecification(content));

  uint64_t calls = 0;
  const auto stopped = contentDigest(file, [&](uint64_t) { return ++calls < 2; });
  REQUIRE(!stopped.ok());
  CHECK(stopped.error().code == Code::kCancelled);
  CHECK(calls == 2);

  // 8 TiB of hole: seconds if it were read or hashed piece by piece.
  DH_REQUIRE_OK(file.truncate(uint64_t{1} << 40));
  DH_REQUIRE_OK(contentDigest(file));
}

}  // namespace
}  // namespace deltahop
