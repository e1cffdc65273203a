#include <cstring>

#include "base/test_support.h"
#include "codec/delta_decoder.h"
#include "codec/delta_encoder.h"
#include "codec/delta_stream.h"
#include "codec/patcher.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr uint64_t kBasisBytes = uint64_t{1} << 33;

// Instructions as a list in which neighbours are merged, so that two ways to say the same compare equal.
struct Recorder : public DeltaSink {
  struct Op {
    char kind;
    uint64_t offset;
    uint64_t length;
    Bytes data;
    bool operator==(const Op&) const = default;
  };
  Status copy(uint64_t basisOffset, uint64_t length) override {
    if (!ops.empty() && ops.back().kind == 'c' && ops.back().offset + ops.back().length == basisOffset) {
      ops.back().length += length;
    } else {
      ops.push_back({'c', basisOffset, length, {}});
    }
    return {};
  }
  Status literal(ByteSpan data) override {
    if (ops.empty() || ops.back().kind != 'l') ops.push_back({'l', 0, 0, {}});
    ops.back().length += data.size();
    ops.back().data.insert(ops.back().data.end(), data.begin(), data.end());
    return {};
  }
  Status zeros(uint64_t length) override {
    if (ops.empty() || ops.back().kind != 'z') ops.push_back({'z', 0, 0, {}});
    ops.back().length += length;
    return {};
  }
  std::vector<Op> ops;
};

Status randomOps(TestRandom& random, size_t count, DeltaSink& first, DeltaSink& second) {
  uint64_t offset = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t length = 1 + random.below(uint64_t{1} << random.below(20));
    switch (random.below(4)) {
      case 0:
        DH_CHECK(first.zeros(length));
        DH_CHECK(second.zeros(length));
        break;
      case 1: {
        Bytes data = random.bytes(length / 16 + 1);
        if (random.below(2) == 0) std::fill(data.begin(), data.end(), uint8_t{'a'});
        DH_CHECK(first.literal(data));
        DH_CHECK(second.literal(data));
        break;
      }
      case 2:
        offset = random.below(kBasisBytes - length);
        [[fallthrough]];
      default:
        if (offset + length > kBasisBytes) offset = 0;
        DH_CHECK(first.copy(offset, length));
        DH_CHECK(second.copy(offset, length));
        offset += length;
    }
  }
  return {};
}

TEST_CASE("decoded instructions are the encoded ones, in blocks that keep their bounds") {
  for (const int level : {1, 3, 9}) {
    TestRandom random(static_cast<uint64_t>(level));
    Recorder expected;
    Recorder got;
    DeltaDecoder decoder(kBasisBytes, kMaxFileBytes);
    size_t blocks = 0;
    uint64_t blockBytes = 0;
    DeltaEncoder encoder(
        [&](Bytes block) {
          ++blocks;
          blockBytes += block.size();
          CHECK(block.size() <= kMaxDeltaBlockBytes);
          return decoder.decode(block, got);
        },
        level);
    DH_REQUIRE_OK(randomOps(random, 30000, expected, encoder));
    DH_REQUIRE_OK(encoder.finish());
    CHECK(blocks > 10);
    CHECK(encoder.statistics().blockBytes == blockBytes);
    CHECK(encoder.statistics().literalEncodedBytes < encoder.statistics().literalBytes);
    REQUIRE(got.ops.size() == expected.ops.size());
    CHECK(got.ops == expected.ops);
  }
}

Bytes rawBlock(const Bytes& ops, const Bytes& literals) {
  Bytes block;
  Writer writer(block);
  writer.u8(0);
  writer.bytes(ops);
  writer.u8(0);
  writer.bytes(literals);
  return block;
}

Bytes op(uint64_t kind, uint64_t length, std::optional<uint64_t> jump = std::nullopt) {
  Bytes bytes;
  Writer writer(bytes);
  writer.varint(length << 2 | kind);
  if (jump.has_value()) writer.varint(*jump);
  return bytes;
}

TEST_CASE("literals that go on from block to block are shorter, and only read in order") {
  TestRandom random(12);
  const Bytes part = random.bytes(kMaxDeltaLiteralBytes);
  Bytes target;
  for (int i = 0; i < 4; ++i) target.insert(target.end(), part.begin(), part.end());
  const Bytes loose = random.bytes(700);
  target.insert(target.end(), loose.begin(), loose.end());
  std::vector<Bytes> blocks;
  LiteralStreamWriter stream(3);
  DeltaEncoder encoder(
      [&](Bytes block) -> Status {
        CHECK(block.size() <= kMaxDeltaBlockBytes);
        blocks.push_back(std::move(block));
        return {};
      },
      3, &stream);
  DH_REQUIRE_OK(encoder.literal(target));
  DH_REQUIRE_OK(encoder.finish());
  REQUIRE(blocks.size() == 5);
  CHECK(encoder.statistics().blockBytes < kMaxDeltaLiteralBytes + 10'000);
  Recorder recorder;
  LiteralStreamReader literals;
  DeltaDecoder decoder(0, target.size(), &literals);
  for (const Bytes& block : blocks) DH_REQUIRE_OK(decoder.decode(block, recorder));
  REQUIRE(recorder.ops.size() == 1);
  CHECK(recorder.ops[0].data == target);
  // Blocks that nobody wants keep the stream going.
  LiteralStreamReader skipping;
  for (int i = 0; i < 4; ++i) DH_REQUIRE_OK(skipDeltaBlock(blocks[static_cast<size_t>(i)], skipping));
  Recorder end;
  DeltaDecoder behind(0, target.size(), &skipping);
  DH_REQUIRE_OK(behind.decode(blocks[4], end));
  CHECK(end.ops[0].data == loose);
  // Without the first one, damaged, or where blocks are complete in themselves.
  Recorder nothing;
  LiteralStreamReader lateLiterals;
  DeltaDecoder late(0, target.size(), &lateLiterals);
  CHECK(late.decode(blocks[1], nothing).error().code == Code::kCorrupt);
  DeltaDecoder independent(0, target.size());
  CHECK(independent.decode(blocks[0], nothing).error().code == Code::kUnsupported);
  for (int i = 0; i < 300; ++i) {
    Bytes damaged = blocks[4];
    damaged[random.below(damaged.size())] ^= static_cast<uint8_t>(1 + random.below(255));
    Recorder some;
    LiteralStreamReader damagedLiterals;
    DeltaDecoder reader(0, target.size(), &damagedLiterals);
    for (int block = 0; block < 4; ++block) DH_REQUIRE_OK(reader.decode(blocks[static_cast<size_t>(block)], some));
    Recorder last;
    if (!reader.decode(damaged, last).ok()) CHECK(last.ops.empty());
  }
  CHECK(nothing.ops.empty());
}

TEST_CASE("a block that says what cannot be is refused before its first instruction") {
  const auto decode = [](const Bytes& block) {
    Recorder recorder;
    DeltaDecoder decoder(1000, 5000);
    const Status status = decoder.decode(block, recorder);
    CHECK(recorder.ops.empty() == !status.ok());
    return status.ok() ? Code::kCancelled : status.error().code;
  };
  CHECK(decode(rawBlock(op(3, 1000, 0), {})) == Code::kCancelled);
  CHECK(decode(rawBlock(op(1, 3), {1, 2, 3})) == Code::kCancelled);
  CHECK(decode(rawBlock(op(3, 1001, 0), {})) == Code::kCorrupt);  // beyond the basis
  CHECK(decode(rawBlock(op(3, 1, 2000), {})) == Code::kCorrupt);  // at its end
  CHECK(decode(rawBlock(op(3, 1, 1), {})) == Code::kCorrupt);     // before its start
  CHECK(decode(rawBlock(op(3, 1, UINT64_MAX), {})) == Code::kCorrupt);
  CHECK(decode(rawBlock(op(3, 0, 0), {})) == Code::kCorrupt);      // empty
  CHECK(decode(rawBlock(op(0, 5), {})) == Code::kCorrupt);         // unknown
  CHECK(decode(rawBlock(op(1, 4), {1, 2, 3})) == Code::kCorrupt);  // too few literals
  CHECK(decode(rawBlock(op(1, 2), {1, 2, 3})) == Code::kCorrupt);  // too many
  CHECK(decode(rawBlock(op(2, 5001), {})) == Code::kLimit);        // more than announced
  CHECK(decode(rawBlock(op(2, UINT64_MAX >> 2), {})) == Code::kLimit);
  CHECK(decode(rawBlock({}, {})) == Code::kCorrupt);
  CHECK(decode(rawBlock({0x80}, {})) == Code::kCorrupt);
  CHECK(decode(Bytes{2, 0, 0}) == Code::kUnsupported);
  // Copies that wrap around 64 bits by several jumps.
  Bytes two = op(3, 1000, 0);
  const Bytes jump = op(3, 1000, (UINT64_MAX - 1) & ~uint64_t{1});
  two.insert(two.end(), jump.begin(), jump.end());
  CHECK(decode(rawBlock(two, {})) == Code::kCorrupt);
  // The bound holds over all blocks together.
  Recorder recorder;
  DeltaDecoder decoder(1000, 5000);
  for (int i = 0; i < 5; ++i) DH_REQUIRE_OK(decoder.decode(rawBlock(op(2, 1000), {}), recorder));
  CHECK(decoder.decode(rawBlock(op(2, 1), {}), recorder).error().code == Code::kLimit);
}

TEST_CASE("damaged blocks never do harm") {
  TestRandom random(9);
  std::vector<Bytes> blocks;
  DeltaEncoder encoder([&](Bytes block) {
    blocks.push_back(std::move(block));
    return Status();
  });
  Recorder ignored;
  DH_REQUIRE_OK(randomOps(random, 300, ignored, encoder));
  DH_REQUIRE_OK(encoder.finish());
  const Bytes& block = blocks.front();
  for (int i = 0; i < 3000; ++i) {
    Bytes damaged = block;
    if (i % 3 == 0) damaged.resize(random.below(damaged.size()));
    for (uint64_t flips = 1 + random.below(4); flips > 0 && !damaged.empty(); --flips) {
      // The start matters most: lengths and codecs.
      damaged[random.below(i % 2 == 0 ? std::min<size_t>(64, damaged.size()) : damaged.size())] =
          static_cast<uint8_t>(random.next());
    }
    Recorder recorder;
    DeltaDecoder decoder(kBasisBytes, kMaxFileBytes);
    const Status status = decoder.decode(damaged, recorder);
    if (!status.ok()) REQUIRE(recorder.ops.empty());
    if (i % 3 == 0 && damaged.size() < block.size() / 2) REQUIRE(!status.ok());
  }
}

TEST_CASE("patched sparse files take no more room than their data") {
  const TestDirectory directory;
  TestRandom random(10);
  File basisFile = openTestFile(directory.path("basis"));
  DH_REQUIRE_OK(basisFile.truncate(uint64_t{64} << 20));
  DH_REQUIRE_OK(basisFile.writeAt(uint64_t{32} << 20, random.bytes(1 << 20)));
  std::vector<File> files;
  files.push_back(std::move(basisFile));
  const auto basis = Basis::make(std::move(files), 4096);
  DH_REQUIRE_OK(basis);
  File target = openTestFile(directory.path("target"));
  FileOutput output(target);
  Patcher patcher(basis.value(), output);
  DeltaEncoder encoder([&](Bytes block) { return patcher.apply(block); });
  // Zeros said as zeros, zeros copied from holes of the basis, zeros as literals, at odd offsets.
  DH_REQUIRE_OK(encoder.literal(Bytes{1, 2, 3}));
  DH_REQUIRE_OK(encoder.zeros(uint64_t{1} << 30));
  DH_REQUIRE_OK(encoder.copy(0, uint64_t{64} << 20));
  DH_REQUIRE_OK(encoder.literal(Bytes(1 << 20)));
  DH_REQUIRE_OK(encoder.zeros(12345));
  DH_REQUIRE_OK(encoder.finish());
  const uint64_t size = 3 + (uint64_t{1} << 30) + (uint64_t{64} << 20) + (1 << 20) + 12345;
  REQUIRE(patcher.doneBytes() == size);
  // The digest is that of the file as it reads.
  DH_REQUIRE_OK(target.truncate(size));
  const auto digest = contentDigest(target);
  DH_REQUIRE_OK(digest);
  const auto summary = patcher.finish(size, digest.value());
  DH_REQUIRE_OK(summary);
  CHECK(target.size().value() == size);
  const auto status = target.stat();
  DH_REQUIRE_OK(status);
  CHECK(status.value().st_blocks * 512 <= (1 << 20) + 64 * 1024);
}

TEST_CASE("a wrong size or digest is a mismatch") {
  const TestDirectory directory;
  const Basis basis;
  for (const bool rightSize : {false, true}) {
    File target = openTestFile(directory.path("target"));
    FileOutput output(target);
    Patcher patcher(basis, output);
    DH_REQUIRE_OK(patcher.apply(rawBlock(op(1, 3), {1, 2, 3})));
    CHECK(patcher.finish(rightSize ? 3 : 4, Digest{}).error().code == Code::kMismatch);
  }
}

}  // namespace
}  // namespace deltahop
