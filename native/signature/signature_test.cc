#include "signature/signature.h"

#include <array>

#include "base/test_support.h"
#include "hash/content_digest.h"

namespace deltahop {
namespace {

constexpr Key kKey = {5, 5, 5};

Result<Signature> parse(ByteSpan stream, size_t split = SIZE_MAX, std::optional<Key> key = std::nullopt) {
  SignatureParser parser(key);
  for (size_t at = 0; at < stream.size();) {
    const size_t piece = std::min(split, stream.size() - at);
    DH_CHECK(parser.feed(stream.subspan(at, piece)));
    at += piece;
  }
  return parser.finish();
}

Bytes build(const Basis& basis, bool announceKey) {
  SignatureBuilder builder(basis, kKey, announceKey);
  Bytes stream;
  for (;;) {
    auto piece = builder.next();
    DH_REQUIRE_OK(piece);
    if (piece.value().empty()) break;
    CHECK(piece.value().size() <= 256 * 1024);
    stream.insert(stream.end(), piece.value().begin(), piece.value().end());
  }
  return stream;
}

Basis basisOf(const TestDirectory& directory, const std::vector<Bytes>& contents, uint32_t blockBytes) {
  std::vector<File> files;
  for (const Bytes& content : contents) {
    const std::string path = directory.path("basis" + std::to_string(files.size()));
    writeTestFile(path, content);
    files.push_back(openTestFile(path));
  }
  auto basis = Basis::make(std::move(files), blockBytes);
  DH_REQUIRE_OK(basis);
  return std::move(basis).value();
}

TEST_CASE("block sizes") {
  CHECK(chooseBlockBytes(0) == 512);
  CHECK(chooseBlockBytes(300000) == 1024);
  CHECK(chooseBlockBytes(1 << 20) == 4096);
  CHECK(chooseBlockBytes((1 << 20) + 1) == 1024);
  CHECK(chooseBlockBytes(uint64_t{1} << 30) == 4096);
  CHECK(chooseBlockBytes((uint64_t{1} << 30) + 1) == 32768);
  CHECK(chooseBlockBytes((uint64_t{16} << 30) + 1) == 65536);
  CHECK(chooseBlockBytes(uint64_t{16} << 30) == 16384);
  for (uint64_t bytes = 1; bytes <= kMaxFileBytes; bytes = bytes * 3 + 1) {
    const uint64_t blockBytes = chooseBlockBytes(bytes);
    CHECK((bytes + blockBytes - 1) / blockBytes <= kMaxSignatureBlocks);
    CHECK(blockBytes <= kMaxBlockBytes);
  }
}

TEST_CASE("a signature says of each block that is not zero where and what it is") {
  const TestDirectory directory;
  TestRandom random(1);
  Bytes first = random.bytes(10 * 512 + 100);
  std::fill(first.begin() + 3 * 512, first.begin() + 6 * 512, uint8_t{0});
  const Bytes second = random.bytes(512);
  const Basis basis = basisOf(directory, {first, Bytes(), second}, 512);
  const Bytes stream = build(basis, true);
  const RollingHash rolling(kKey, 512);
  for (const size_t split : {size_t{1}, size_t{2}, size_t{3}, size_t{7}, size_t{50}, stream.size()}) {
    const auto signature = parse(stream, split);
    DH_REQUIRE_OK(signature);
    CHECK(signature.value().key == kKey);
    CHECK(signature.value().basisBytes() == basis.size());
    const std::vector<uint32_t> blocks = {0, 1, 2, 6, 7, 8, 9, 10, 11};
    REQUIRE(signature.value().blocks == blocks);
    CHECK(signature.value().blockLength(10) == 100);
    CHECK(signature.value().blockLength(11) == 512);
    for (size_t i = 0; i < blocks.size(); ++i) {
      const size_t length = signature.value().blockLength(blocks[i]);
      Bytes block(length);
      DH_REQUIRE_OK(basis.readAt(uint64_t{blocks[i]} * 512, block));
      CHECK(signature.value().weak[i] == rolling.hashOf(block.data(), length));
      const Digest digest = blake3Keyed(kKey, block);
      uint64_t strong = 0;
      for (size_t j = 0; j < 8; ++j) strong |= uint64_t{digest[j]} << (8 * j);
      CHECK(signature.value().strong[i] == strong);
    }
  }
  // Without the key in the header, the parser must know it.
  const Bytes keyless = build(basis, false);
  CHECK(parse(keyless).error().code == Code::kProtocol);
  CHECK(parse(keyless, SIZE_MAX, kKey).value().blocks.size() == 9);
}

TEST_CASE("strong hashes are as short as the size of the basis lets them be") {
  CHECK(chooseStrongBytes(1 << 20, 1024) == 2);
  CHECK(chooseStrongBytes(uint64_t{1} << 30, 32 << 10) == 3);
  CHECK(chooseStrongBytes(uint64_t{1} << 46, 1 << 26) <= kMaxStrongBytes);
  CHECK(chooseRootBlockBytes(1 << 20) == 1024);
  const TestDirectory directory;
  TestRandom random(8);
  const Basis basis = basisOf(directory, {random.bytes(20 * 512 + 100)}, 512);
  const auto whole = parse(build(basis, true));
  DH_REQUIRE_OK(whole);
  for (unsigned strongBytes = kMinStrongBytes; strongBytes < kMaxStrongBytes; ++strongBytes) {
    SignatureBuilder builder(basis, kKey, true, strongBytes);
    Bytes stream;
    for (;;) {
      const auto piece = builder.next();
      DH_REQUIRE_OK(piece);
      if (piece.value().empty()) break;
      stream.insert(stream.end(), piece.value().begin(), piece.value().end());
    }
    if (strongBytes == 3) {
      const std::string path = std::string(DELTAHOP_GOLDEN_DIR) + "/signature_short.dhsig";
      const char* mode = ::getenv("DELTAHOP_GOLDEN");
      if (mode != nullptr && std::string(mode) == "write") writeTestFile(path, stream);
      CHECK(stream == readTestFile(path));
    }
    const auto shorter = parse(stream, 5);
    DH_REQUIRE_OK(shorter);
    CHECK(shorter.value().weak == whole.value().weak);
    REQUIRE(shorter.value().strong.size() == 21);
    for (size_t i = 0; i < 21; ++i) {
      CHECK(shorter.value().strong[i] == whole.value().strong[i] % (uint64_t{1} << (8 * strongBytes)));
    }
    // Lengths that do not go with the version.
    Bytes wrong = stream;
    wrong[4] = 1;
    CHECK(parse(wrong).error().code == Code::kUnsupported);
    wrong[4] = 2;
    for (const uint8_t length : {0, 1, 8, 9}) {
      wrong[5] = length;
      CHECK(parse(wrong).error().code == Code::kUnsupported);
    }
  }
}

TEST_CASE("a signature of many runs comes whole through any split") {
  const TestDirectory directory;
  TestRandom random(2);
  Bytes content(40000 * 512);
  for (size_t block = 0; block < 40000; ++block) {
    if (block < 20000 || random.below(3) != 0) content[block * 512 + random.below(512)] = 7;
  }
  const Bytes stream = build(basisOf(directory, {content}, 512), true);
  const auto signature = parse(stream, 9999);
  DH_REQUIRE_OK(signature);
  size_t entry = 0;
  for (size_t block = 0; block < 40000; ++block) {
    if (isZero(ByteSpan(content).subspan(block * 512, 512))) continue;
    REQUIRE(signature.value().blocks[entry] == block);
    ++entry;
  }
  CHECK(entry == signature.value().blocks.size());
}

TEST_CASE("a damaged signature is refused") {
  const TestDirectory directory;
  TestRandom random(3);
  const Bytes stream = build(basisOf(directory, {random.bytes(20 * 512 + 1)}, 512), true);
  DH_REQUIRE_OK(parse(stream));
  for (size_t cut = 0; cut < stream.size(); ++cut) {
    CHECK(parse(ByteSpan(stream).first(cut)).error().code == Code::kTruncated);
  }
  for (size_t at = 0; at < stream.size(); ++at) {
    Bytes damaged = stream;
    damaged[at] ^= static_cast<uint8_t>(1u << random.below(8));
    const auto signature = parse(damaged, 1 + random.below(100));
    REQUIRE(!signature.ok());
  }
  Bytes longer = stream;
  longer.push_back(0);
  CHECK(parse(longer).error().code == Code::kCorrupt);
  for (int i = 0; i < 300; ++i) {
    Bytes noise = random.bytes(random.below(300));
    if (noise.size() > 43 && i % 2 == 0) std::copy_n(stream.begin(), 43, noise.begin());
    REQUIRE(!parse(noise).ok());
  }
}

TEST_CASE("claims that would cost the reader memory are refused") {
  const auto withBlockBytes = [](uint32_t blockBytes) {
    SignatureWriter writer(blockBytes, kKey, true);
    DH_REQUIRE_OK(writer.addBlocks(0, Bytes(100, 1)));
    writer.finish(std::array{uint64_t{100}});
    return writer.take();
  };
  DH_REQUIRE_OK(parse(withBlockBytes(512)));
  CHECK(parse(withBlockBytes(256)).error().code == Code::kLimit);
  CHECK(parse(withBlockBytes(600)).error().code == Code::kLimit);
  CHECK(parse(withBlockBytes(kMaxBlockBytes)).error().code == Code::kLimit);
  CHECK(parse(withBlockBytes(kMaxBlockBytes * 2)).error().code == Code::kLimit);
  // A block beyond the basis.
  SignatureWriter writer(512, kKey, true);
  DH_REQUIRE_OK(writer.addBlocks(1, Bytes(100, 1)));
  writer.finish(std::array{uint64_t{512}});
  CHECK(parse(writer.take()).error().code == Code::kCorrupt);
}

}  // namespace
}  // namespace deltahop
