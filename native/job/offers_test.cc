#include "job/offers.h"

#include <cstdlib>
#include <string>

#include "base/test_support.h"
#include "hash/content_digest.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

Digest digestOfText(const std::string& text) {
  return contentDigest(ByteSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
}

TEST_CASE("golden offers, and what came of them") {
  Key key;
  for (size_t i = 0; i < key.size(); ++i) key[i] = static_cast<uint8_t>(i);
  FileListWriter offers;
  FileListWriter same;
  FileListWriter differs;
  Blake3 digests;
  for (const uint32_t index : {3U, 4U, 200U, 70'000U}) {
    const Digest digest = digestOfText("file " + std::to_string(index));
    offers.add(index);
    offers.add(ByteSpan(offerSum(key, digest)).first(kOfferBytes));
    if (index == 4) {
      differs.add(index);
    } else {
      same.add(index);
      digests.update(digest);
    }
  }
  Bytes sameBytes;
  Writer writer(sameBytes);
  writer.raw(digests.finish());
  writer.raw(same.take());
  const std::string folder = std::string(DELTAHOP_GOLDEN_DIR) + "/";
  const std::pair<std::string, Bytes> messages[] = {{"offers_basic.dhoffer", offers.take()},
                                                    {"offers_same.dhsame", sameBytes},
                                                    {"offers_differ.dhdiffer", differs.take()}};
  const char* mode = ::getenv("DELTAHOP_GOLDEN");
  for (const auto& [name, bytes] : messages) {
    CAPTURE(name);
    if (mode != nullptr && std::string(mode) == "write") writeTestFile(folder + name, bytes);
    CHECK(bytes == readTestFile(folder + name));
  }
}

TEST_CASE("lists of files are read as they were written, and nothing else is") {
  FileListWriter list;
  for (const uint32_t index : {0U, 1U, 128U, 999U}) {
    REQUIRE(list.takes(index));
    list.add(index);
  }
  CHECK(!list.takes(999));
  const Bytes bytes = list.take();
  CHECK(list.takes(0));
  Reader reader(bytes);
  const auto read = readFileList(reader, 1000);
  DH_REQUIRE_OK(read);
  CHECK(read.value() == std::vector<uint32_t>{0, 1, 128, 999});
  Reader beyond(bytes);
  CHECK(readFileList(beyond, 999).error().code == Code::kProtocol);
  const Bytes offer{5, 1, 2, 3, 4, 5};
  const auto offers = readOffers(offer, 6, kOfferBytes);
  DH_REQUIRE_OK(offers);
  CHECK(offers.value().size() == 1);
  CHECK(offers.value().front().index == 5);
  CHECK(readOffers(offer, 5, kOfferBytes).error().code == Code::kProtocol);
  CHECK(readOffers(ByteSpan(offer).first(5), 6, kOfferBytes).error().code == Code::kTruncated);
  CHECK(readSame(ByteSpan(offer), 6, true).error().code == Code::kTruncated);
  CHECK(readSame(Bytes(32), 6, true).value().indexes.empty());
}

}  // namespace
}  // namespace deltahop
