#include "codec/literal_stream.h"

#include <zstd.h>

#include <cstdlib>
#include <string>

#include "base/test_support.h"

namespace deltahop {
namespace {

struct Kept {
  uint8_t coding = 0;
  Bytes encoded;
  size_t rawBytes = 0;
};

Kept compress(LiteralStreamWriter& writer, ByteSpan raw) {
  const auto piece = writer.compress(raw);
  DH_REQUIRE_OK(piece);
  const ByteSpan bytes = piece.value().bytes;
  return {static_cast<uint8_t>(piece.value().coding), Bytes(bytes.begin(), bytes.end()), raw.size()};
}

Bytes decompress(LiteralStreamReader& reader, const Kept& piece) {
  if (!isOfLiteralStream(piece.coding)) return piece.encoded;
  Bytes raw;
  DH_REQUIRE_OK(reader.decompress(piece.coding, piece.encoded, piece.rawBytes, raw));
  return raw;
}

Bytes words(TestRandom& random, size_t bytes) {
  Bytes text;
  while (text.size() < bytes) {
    const std::string word = "word" + std::to_string(random.below(2000)) + " ";
    text.insert(text.end(), word.begin(), word.end());
  }
  text.resize(bytes);
  return text;
}

TEST_CASE("a piece is compressed with those before it in view") {
  TestRandom random(1);
  const Bytes first = words(random, 200'000);
  const Bytes again(first.begin() + 1000, first.begin() + 60'000);
  LiteralStreamWriter writer(3);
  LiteralStreamReader reader;
  const Kept begun = compress(writer, first);
  CHECK(begun.coding == static_cast<uint8_t>(LiteralCoding::kBegins));
  const Kept next = compress(writer, again);
  CHECK(next.coding == static_cast<uint8_t>(LiteralCoding::kGoesOn));
  LiteralStreamWriter alone(3);
  CHECK(next.encoded.size() < compress(alone, again).encoded.size() / 2);
  CHECK(decompress(reader, begun) == first);
  CHECK(decompress(reader, next) == again);
}

TEST_CASE("pieces of all kinds and levels are read as they were") {
  TestRandom random(2);
  LiteralStreamWriter writer(1);
  LiteralStreamReader reader;
  uint64_t begun = 0;
  for (int i = 0; i < 200; ++i) {
    writer.setLevel(1 + i / 40);
    if (i == 150) writer.restart();
    const size_t bytes = random.below(100'000);
    const Bytes raw = random.below(3) == 0 ? random.bytes(bytes) : words(random, bytes);
    const Kept piece = compress(writer, raw);
    begun += piece.coding == static_cast<uint8_t>(LiteralCoding::kBegins);
    CHECK(decompress(reader, piece) == raw);
  }
  // At first, with the levels (some pieces later, each), and once when told to.
  CHECK(begun > 3);
  CHECK(begun <= 6);
}

TEST_CASE("random bytes cost little more than themselves, and their repetition nothing") {
  TestRandom random(3);
  LiteralStreamWriter writer(3);
  LiteralStreamReader reader;
  const Bytes raw = random.bytes(200'000);
  const Kept first = compress(writer, raw);
  CHECK(first.encoded.size() < raw.size() + 100);
  const Kept again = compress(writer, raw);
  CHECK(again.encoded.size() < 1000);
  CHECK(decompress(reader, first) == raw);
  CHECK(decompress(reader, again) == raw);
}

TEST_CASE("who has not read the first pieces goes on where a stream begins") {
  TestRandom random(4);
  LiteralStreamWriter writer(3);
  const Bytes text = words(random, 5000);
  const Kept missed = compress(writer, text);
  const Kept lost = compress(writer, text);
  writer.restart();
  const Kept begun = compress(writer, text);
  LiteralStreamReader reader;
  Bytes raw;
  CHECK(reader.decompress(lost.coding, lost.encoded, lost.rawBytes, raw).error().code == Code::kCorrupt);
  CHECK(decompress(reader, begun) == text);
}

TEST_CASE("no more is read or held than was announced") {
  TestRandom random(5);
  LiteralStreamWriter writer(3);
  const Bytes text = words(random, 5000);
  const Kept piece = compress(writer, text);
  for (const size_t wrong : {piece.rawBytes - 1, piece.rawBytes + 1, size_t{0}}) {
    LiteralStreamReader reader;
    Bytes raw;
    CHECK(reader.decompress(piece.coding, piece.encoded, wrong, raw).error().code == Code::kCorrupt);
  }
  Bytes cut = piece.encoded;
  cut.pop_back();
  LiteralStreamReader reader;
  Bytes raw;
  CHECK(reader.decompress(piece.coding, cut, piece.rawBytes, raw).error().code == Code::kCorrupt);
  // A frame that wants a larger window.
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, kLiteralWindowLog + 1);
  Bytes large(ZSTD_compressBound(text.size()));
  ZSTD_inBuffer in{text.data(), text.size(), 0};
  ZSTD_outBuffer out{large.data(), large.size(), 0};
  REQUIRE(ZSTD_compressStream2(context, &out, &in, ZSTD_e_flush) == 0);
  ZSTD_freeCCtx(context);
  large.resize(out.pos);
  CHECK(reader.decompress(static_cast<uint8_t>(LiteralCoding::kBegins), large, text.size(), raw).error().code ==
        Code::kCorrupt);
}

TEST_CASE("golden stream of literals") {
  TestRandom random(6);
  LiteralStreamWriter writer(3);
  Bytes stream;
  for (const size_t bytes : {3000, 10, 500}) {
    const Kept piece = compress(writer, words(random, bytes));
    stream.push_back(piece.coding);
    stream.insert(stream.end(), piece.encoded.begin(), piece.encoded.end());
  }
  const std::string path = std::string(DELTAHOP_GOLDEN_DIR) + "/literals_basic.dhliterals";
  const char* mode = ::getenv("DELTAHOP_GOLDEN");
  if (mode != nullptr && std::string(mode) == "write") writeTestFile(path, stream);
  CHECK(stream == readTestFile(path));
}

}  // namespace
}  // namespace deltahop
