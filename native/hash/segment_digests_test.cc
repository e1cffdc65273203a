#include "hash/segment_digests.h"

#include <fcntl.h>

#include "base/test_support.h"
#include "hash/content_digest.h"

namespace deltahop {
namespace {

constexpr size_t kSegment = kContentSegmentBytes;

TEST_CASE("segment digests: those of full segments, holes and zeros among them, whatever is asked for first") {
  TestDirectory directory;
  TestRandom random(1);
  Bytes content = random.bytes(5 * kSegment + 77);
  std::fill_n(content.begin() + kSegment, 2 * kSegment, uint8_t{0});
  writeSparseTestFile(directory.path("file"), content);
  SegmentDigests digests(openTestFile(directory.path("file")), content.size());
  for (const size_t segment : {3, 0, 1, 2, 4}) {
    CAPTURE(segment);
    const auto digest = digests.at(segment);
    REQUIRE(digest.has_value());
    CHECK(*digest == blake3(ByteSpan(content).subspan(segment * kSegment, kSegment)));
  }
  CHECK(!digests.at(5).has_value());
}

TEST_CASE("segment digests: what cannot be read is not known, and nobody waits for it") {
  TestDirectory directory;
  TestRandom random(2);
  const Bytes content = random.bytes(2 * kSegment);
  writeTestFile(directory.path("file"), content);
  auto file = File::open(AT_FDCWD, directory.path("file"), O_WRONLY);
  DH_REQUIRE_OK(file);
  SegmentDigests digests(std::move(file).value(), content.size());
  CHECK(!digests.at(1).has_value());
  CHECK(!digests.at(0).has_value());
}

}  // namespace
}  // namespace deltahop
