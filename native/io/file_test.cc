#include "io/file.h"

#include <sys/stat.h>

#include "base/test_support.h"
#include "io/basis.h"
#include "io/replacement_file.h"

namespace deltahop {
namespace {

TEST_CASE("extents of a sparse file") {
  const TestDirectory directory;
  File file = openTestFile(directory.path("sparse"));
  constexpr uint64_t kSize = 10 << 20;
  DH_REQUIRE_OK(file.truncate(kSize));
  DH_REQUIRE_OK(file.writeAt(4 << 20, Bytes(65536, 1)));
  uint64_t dataBytes = 0;
  bool coversWrite = false;
  for (uint64_t offset = 0; offset < kSize;) {
    const auto extent = file.nextExtent(offset, kSize);
    DH_REQUIRE_OK(extent);
    REQUIRE(extent.value().offset == offset);
    REQUIRE(extent.value().length > 0);
    REQUIRE(extent.value().end() <= kSize);
    const auto hole = file.holeBytes(offset, kSize);
    DH_REQUIRE_OK(hole);
    CHECK(hole.value() == (extent.value().isHole ? extent.value().length : 0));
    if (!extent.value().isHole) {
      dataBytes += extent.value().length;
      coversWrite = offset <= (4 << 20) && extent.value().end() >= (4 << 20) + 65536;
    }
    offset = extent.value().end();
  }
  CHECK(coversWrite);
  CHECK(dataBytes == 65536);
  // Cut inside data.
  const auto cut = file.nextExtent(4 << 20, (4 << 20) + 100);
  DH_REQUIRE_OK(cut);
  CHECK(cut.value().length == 100);
  CHECK(file.holeBytes(0, 100).value() == 100);
}

TEST_CASE("what is reserved is a hole until it is written") {
  const TestDirectory directory;
  File file = openTestFile(directory.path("reserved"));
  constexpr uint64_t kSize = 8 << 20;
  DH_REQUIRE_OK(reserveSpace(file, 0, kSize));
  DH_REQUIRE_OK(file.writeAt(1 << 20, Bytes(8192, 1)));
  CHECK(file.holeBytes(0, kSize).value() == 1 << 20);
  CHECK(file.holeBytes((1 << 20) + 4096, kSize).value() == 0);
  CHECK(file.nextExtent(1 << 20, kSize).value().length == 8192);
  CHECK(file.holeBytes((1 << 20) + 8192, kSize).value() == kSize - (1 << 20) - 8192);
}

TEST_CASE("reads stop at the end of the file, and errors say what failed") {
  const TestDirectory directory;
  writeTestFile(directory.path("file"), Bytes{1, 2, 3});
  const auto file = File::openRegular(directory.path("file"));
  DH_REQUIRE_OK(file);
  Bytes buffer(10);
  CHECK(file.value().readAt(1, buffer).value() == 2);
  CHECK(file.value().readAt(3, buffer).value() == 0);
  CHECK(File::openRegular(directory.path("none")).error().code == Code::kNotFound);
  CHECK(File::openRegular(directory.path("")).error().code == Code::kUnsupported);
  REQUIRE(::mkfifo(directory.path("fifo").c_str(), 0600) == 0);
  CHECK(File::openRegular(directory.path("fifo")).error().code == Code::kUnsupported);
}

TEST_CASE("isZero looks at every byte") {
  for (size_t length = 0; length < 70; ++length) {
    Bytes bytes(length);
    CHECK(isZero(bytes));
    for (size_t i = 0; i < length; ++i) {
      bytes[i] = 1;
      CHECK(!isZero(bytes));
      bytes[i] = 0;
    }
  }
}

TEST_CASE("basis: several files as one range, gaps read as zeros") {
  const TestDirectory directory;
  TestRandom random(4);
  const Bytes first = random.bytes(1000);
  const Bytes third = random.bytes(700);
  writeTestFile(directory.path("first"), first);
  writeTestFile(directory.path("empty"), Bytes());
  writeTestFile(directory.path("third"), third);
  std::vector<File> files;
  for (const char* name : {"first", "empty", "third"}) files.push_back(openTestFile(directory.path(name)));
  const auto basis = Basis::make(std::move(files), 512);
  DH_REQUIRE_OK(basis);
  Bytes expected = first;
  expected.resize(1024, 0);
  expected.insert(expected.end(), third.begin(), third.end());
  REQUIRE(basis.value().size() == expected.size());
  for (int round = 0; round < 500; ++round) {
    const size_t from = random.below(expected.size() + 1);
    Bytes got(random.below(expected.size() - from + 1), 0xEE);
    DH_REQUIRE_OK(basis.value().readAt(from, got));
    REQUIRE(std::equal(got.begin(), got.end(), expected.begin() + static_cast<ptrdiff_t>(from)));
  }
  Bytes one(1);
  CHECK(basis.value().readAt(expected.size(), one).error().code == Code::kCorrupt);
  CHECK(basis.value().readAt(UINT64_MAX, one).error().code == Code::kCorrupt);
  for (uint64_t offset = 0; offset < expected.size();) {
    const auto extent = basis.value().nextExtent(offset);
    DH_REQUIRE_OK(extent);
    REQUIRE(extent.value().offset == offset);
    REQUIRE(extent.value().length > 0);
    offset = extent.value().end();
  }
  // A basis file that shrinks is noticed.
  DH_REQUIRE_OK(openTestFile(directory.path("third")).truncate(10));
  Bytes rest(700);
  CHECK(basis.value().readAt(1024, rest).error().code == Code::kChanged);
}

TEST_CASE("replacement file: all or nothing") {
  const TestDirectory directory;
  const std::string path = directory.path("file");
  writeTestFile(path, Bytes{1});
  REQUIRE(::chmod(path.c_str(), 0640) == 0);
  {
    auto replacement = ReplacementFile::create(path);
    DH_REQUIRE_OK(replacement);
    DH_REQUIRE_OK(replacement.value().file().writeAt(0, Bytes{2, 2}));
  }
  CHECK(readTestFile(path) == Bytes{1});
  CHECK(directory.entryCount() == 1);
  {
    auto replacement = ReplacementFile::create(path);
    DH_REQUIRE_OK(replacement);
    DH_REQUIRE_OK(replacement.value().file().writeAt(0, Bytes{3, 3}));
    DH_REQUIRE_OK(replacement.value().commit(replacement.value().modeOfReplaced(0600)));
  }
  CHECK(readTestFile(path) == Bytes{3, 3});
  CHECK(directory.entryCount() == 1);
  struct stat status;
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0640);
  CHECK(ReplacementFile::create(directory.path("none/file")).error().code == Code::kNotFound);
  CHECK(ReplacementFile::create(directory.path("")).error().code == Code::kUnsupported);
}

}  // namespace
}  // namespace deltahop
