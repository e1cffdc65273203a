#include "wire/reader.h"

#include "base/test_support.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

Code varintError(const Bytes& bytes, uint64_t max = UINT64_MAX) {
  Reader reader(bytes);
  const auto value = reader.varint(max);
  REQUIRE(!value.ok());
  return value.error().code;
}

TEST_CASE("reader gives back what writer wrote") {
  const Bytes blob = {1, 2, 3};
  Bytes output;
  Writer writer(output);
  writer.u8(0xAB);
  writer.u16(0xABCD);
  writer.u32(0xABCDEF01);
  writer.u64(0x0123456789ABCDEF);
  const uint64_t numbers[] = {0, 1, 127, 128, 300, 16383, 16384, UINT32_MAX, uint64_t{1} << 63, UINT64_MAX};
  for (const uint64_t number : numbers) {
    const size_t before = output.size();
    writer.varint(number);
    CHECK(output.size() - before == varintBytes(number));
  }
  writer.bytes(blob);
  writer.raw(blob);
  CHECK(output[1] == 0xCD);  // little-endian

  Reader reader(output);
  CHECK(reader.u8().value() == 0xAB);
  CHECK(reader.u16().value() == 0xABCD);
  CHECK(reader.u32().value() == 0xABCDEF01);
  CHECK(reader.u64().value() == 0x0123456789ABCDEF);
  for (const uint64_t number : numbers) CHECK(reader.varint().value() == number);
  const ByteSpan read = reader.bytes(3).value();
  CHECK(Bytes(read.begin(), read.end()) == blob);
  CHECK(!reader.expectEnd().ok());
  CHECK(reader.take(3).ok());
  CHECK(reader.expectEnd().ok());

  // Cut anywhere, nothing but kTruncated comes of it.
  for (size_t cut = 0; cut < output.size(); ++cut) {
    Reader cutReader(ByteSpan(output).first(cut));
    Code code = Code::kIo;
    const auto note = [&](const auto& result) {
      if (!result.ok() && code == Code::kIo) code = result.error().code;
      return result.ok();
    };
    bool good = note(cutReader.u8()) && note(cutReader.u16()) && note(cutReader.u32()) && note(cutReader.u64());
    for (size_t i = 0; good && i < std::size(numbers); ++i) good = note(cutReader.varint());
    good = good && note(cutReader.bytes(3)) && note(cutReader.take(3));
    CHECK(!good);
    CHECK(code == Code::kTruncated);
  }
}

TEST_CASE("reader bounds") {
  CHECK(varintError({}) == Code::kTruncated);
  CHECK(varintError({0x80}) == Code::kTruncated);
  CHECK(varintError({0x80, 0x00}) == Code::kCorrupt);        // 0, not minimal
  CHECK(varintError({0xFF, 0x80, 0x00}) == Code::kCorrupt);  // 127, not minimal
  CHECK(varintError(Bytes(10, 0xFF)) == Code::kCorrupt);     // more than 64 bits
  CHECK(varintError({0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02}) == Code::kCorrupt);
  CHECK(varintError({0x80, 0x01}, 127) == Code::kLimit);
  const Bytes fourBytes = {4, 1, 2, 3, 4};
  CHECK(Reader(fourBytes).bytes(3).error().code == Code::kLimit);
  CHECK(Reader(fourBytes).bytes(4).ok());
  const Bytes tooShort = {4, 1, 2, 3};
  CHECK(Reader(tooShort).bytes(100).error().code == Code::kTruncated);
  CHECK(Reader(tooShort).take(SIZE_MAX).error().code == Code::kTruncated);
}

}  // namespace
}  // namespace deltahop
