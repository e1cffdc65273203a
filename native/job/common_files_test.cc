// Large files to a receiver that has no old self of them, but other files that the sender has as well.
#include "job/common_files.h"

#include <cstdlib>
#include <cstring>

#include "base/test_support.h"
#include "io/page_file.h"
#include "job/transfer_test_support.h"
#include "tree/tree_test_support.h"

namespace deltahop {
namespace {

constexpr size_t kDiskPages = 2048;

Digest idOf(uint8_t first) {
  Digest id{};
  id[0] = first;
  return id;
}

// Each side with the same two disks, the first known by a name; the sender's memory has read every other page of the
// first half of both, has some pages of its own, and some copies at odd places.
struct CommonFixture {
  CommonFixture() : from(directory.path("from")), to(directory.path("to")) {
    ::mkdir(from.c_str(), 0755);
    ::mkdir(to.c_str(), 0755);
    TestRandom random(1);
    disk = random.bytes(kDiskPages * kPageBytes);
    other = random.bytes(kDiskPages * kPageBytes - 1000);
    for (const char* side : {"from", "to"}) {
      writeTestFile(directory.path(side + std::string("-disk")), disk);
      writeTestFile(directory.path(side + std::string("-other")), other);
    }
    Bytes memory = random.bytes(kOwnPages * kPageBytes);
    memory.resize(memory.size() + 300 * kPageBytes);
    for (const Bytes* source : {&disk, &other}) {
      for (size_t page = 0; page < kDiskPages / 2; page += 2) {
        const auto begin = source->begin() + static_cast<ptrdiff_t>(page * kPageBytes);
        memory.insert(memory.end(), begin, begin + kPageBytes);
      }
    }
    writeTestFile(from + "/memory", memory);
    writeTestFile(from + "/state", random.bytes(20'000));
  }
  std::vector<CommonFile> files(const std::string& side) const {
    return {{directory.path(side + "-disk"), idOf(1)}, {directory.path(side + "-other"), {}}};
  }
  SendJobOptions send() const {
    SendJobOptions options;
    options.rootPath = from;
    options.common = files("from");
    return options;
  }
  ReceiveJobOptions receive() const {
    ReceiveJobOptions options;
    options.rootPath = to;
    options.common = files("to");
    return options;
  }

  static constexpr size_t kOwnPages = 100;
  // The index has no room for a page now and then, by the key of the session.
  static constexpr uint64_t kUnfoundBytes = 16 * kPageBytes;
  static constexpr uint64_t kOwnBytes = kOwnPages * kPageBytes + 20'000;
  TestDirectory directory;
  std::string from;
  std::string to;
  Bytes disk;
  Bytes other;
};

TEST_CASE_FIXTURE(CommonFixture, "pages that are in files which both have are not sent, and nobody asks for sums") {
  for (const bool inPlace : {false, true}) {
    CAPTURE(inPlace);
    ReceiveJobOptions options = receive();
    options.inPlace = inPlace;
    TransferRun run(send(), options);
    DH_REQUIRE_OK(run.sender.outcome());
    DH_REQUIRE_OK(run.receiver.outcome());
    requireSameTree(from, to);
    CHECK(run.receiver.statistic("commonFiles") == 2);
    CHECK(run.receiver.statistic("matchedBytes") <= kDiskPages / 2 * kPageBytes);
    CHECK(run.receiver.statistic("matchedBytes") >= kDiskPages / 2 * kPageBytes - kUnfoundBytes);
    CHECK(run.receiver.statistic("repairedFiles") == 0);
    CHECK(run.downBytes < kOwnBytes + kUnfoundBytes + 10'000);
    CHECK(run.upBytes < 500);
    CHECK(run.sender.statistic("signatureBytes") == run.receiver.statistic("signatureBytes"));
    std::filesystem::remove_all(to);
    ::mkdir(to.c_str(), 0755);
  }
}

TEST_CASE_FIXTURE(CommonFixture, "what was copied out of a common file to any offset is found as well") {
  Bytes memory = TestRandom(7).bytes(1024 * kPageBytes);
  for (size_t at = 0; at + 3000 < memory.size(); at += 4000) {
    std::memcpy(memory.data() + at, disk.data() + 5 * kPageBytes + at + at / 100, 3000);
  }
  writeTestFile(from + "/memory", memory);
  TransferRun run(send(), receive());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  CHECK(run.downBytes < memory.size() / 2);
}

TEST_CASE_FIXTURE(CommonFixture, "pages of a file that is no row of them are found, with what stands between them") {
  Bytes saved(777, 7);
  for (size_t page = 0; page < kDiskPages; page += 3) {
    saved.insert(saved.end(), 8, static_cast<uint8_t>(page));
    const auto begin = disk.begin() + static_cast<ptrdiff_t>(page * kPageBytes);
    saved.insert(saved.end(), begin, begin + kPageBytes);
  }
  writeTestFile(from + "/memory", saved);
  TransferRun run(send(), receive());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  CHECK(run.downBytes < saved.size() / 10);
}

TEST_CASE_FIXTURE(CommonFixture, "only what both have helps") {
  writeTestFile(directory.path("to-other"), TestRandom(9).bytes(other.size()));
  TransferRun run(send(), receive());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  CHECK(run.receiver.statistic("commonFiles") == 1);
  CHECK(run.receiver.statistic("repairedFiles") == 0);
  CHECK(run.downBytes < kOwnBytes + kDiskPages / 4 * kPageBytes + kUnfoundBytes + 10'000);
}

TEST_CASE_FIXTURE(CommonFixture, "neither one that is missing, nor a link, nor a directory") {
  ReceiveJobOptions options = receive();
  std::filesystem::remove(directory.path("to-disk"));
  std::filesystem::create_symlink(directory.path("from-disk"), directory.path("to-disk"));
  std::filesystem::remove(directory.path("to-other"));
  ::mkdir(directory.path("to-other").c_str(), 0755);
  options.common.push_back({directory.path("nowhere"), idOf(1)});
  TransferRun run(send(), options);
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  CHECK(run.receiver.statistic("commonFiles") == 0);
}

TEST_CASE_FIXTURE(CommonFixture, "a common file that is not what its name says is repaired page by page") {
  for (const std::string side : {"from", "to"}) {
    CAPTURE(side);
    Bytes wrong = disk;
    for (size_t page = 0; page < 40; page += 4) wrong[page * kPageBytes + 99] ^= 1;
    writeTestFile(directory.path(side + "-disk"), wrong);
    TransferRun run(send(), receive());
    DH_REQUIRE_OK(run.receiver.outcome());
    requireSameTree(from, to);
    // The sender misses pages of its own file that were changed, and needs no help for them.
    CHECK(run.receiver.statistic("repairedFiles") == (side == "to" ? 1 : 0));
    CHECK(run.bytes() < kOwnBytes + 300'000);
    writeTestFile(directory.path(side + "-disk"), disk);
    std::filesystem::remove_all(to);
    ::mkdir(to.c_str(), 0755);
  }
}

TEST_CASE_FIXTURE(CommonFixture, "a common file that is gone, shorter or another once it is needed is no error") {
  for (const std::string side : {"from", "to"}) {
    for (const int how : {0, 1, 2}) {
      CAPTURE(side);
      CAPTURE(how);
      const std::string path = directory.path(side + "-disk");
      bool changed = false;
      PipeOptions up;
      // It was announced and agreed upon, and nothing was made of it yet.
      up.tamper = watch([&](Message type, std::span<uint8_t>) {
        if (type != Message::kPagesWanted || changed) return;
        changed = true;
        if (how == 0) std::filesystem::remove(path);
        if (how == 1) std::filesystem::resize_file(path, 50 * kPageBytes);
        if (how == 2) writeTestFile(path, TestRandom(11).bytes(disk.size()));
      });
      TransferRun run(send(), receive(), {}, up);
      DH_REQUIRE_OK(run.sender.outcome());
      DH_REQUIRE_OK(run.receiver.outcome());
      REQUIRE(changed);
      requireSameTree(from, to);
      CHECK(run.receiver.statistic("repairedFiles") == (side == "to" ? 1 : 0));
      writeTestFile(path, disk);
      std::filesystem::remove_all(to);
      ::mkdir(to.c_str(), 0755);
    }
  }
}

TEST_CASE_FIXTURE(CommonFixture, "a peer of the version before is neither told nor asked") {
  PipeOptions up;
  up.tamper = watch([](Message type, std::span<uint8_t> payload) {
    if (type == Message::kReceiverHello) payload[6] = kCommonFilesVersion - 1;
  });
  PipeOptions down;
  down.tamper = watch([](Message type, std::span<uint8_t> payload) {
    if (type == Message::kSenderHello) payload[6] = kCommonFilesVersion - 1;
    if (type == Message::kTree) CHECK((payload[0] & kTreeCommon) == 0);
  });
  TransferRun run(send(), receive(), down, up);
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
}

TEST_CASE_FIXTURE(CommonFixture, "a file that has an old self is asked for against that") {
  Bytes old = readTestFile(from + "/memory");
  old[123'456] ^= 1;
  writeTestFile(to + "/memory", old);
  setMtime(to + "/memory", 1, 0);
  TransferRun run(send(), receive());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  CHECK(run.receiver.statistic("commonFiles") == 0);
}

TEST_CASE_FIXTURE(CommonFixture, "a request against files that were not announced ends the transfer") {
  for (const int how : {0, 1, 2}) {
    CAPTURE(how);
    PipeOptions up;
    up.tamper = watch([&](Message type, std::span<uint8_t> payload) {
      if (type != Message::kPagesWanted) return;
      if (how == 0) payload.back() = 7;
      if (how == 1) payload.back() = 0;
      if (how == 2) payload.back() = 1;  // these are not as long
    });
    TransferRun run(send(), receive(), {}, up);
    REQUIRE(!run.sender.outcome().ok());
    CHECK(run.sender.outcome().error().code == Code::kProtocol);
    CHECK(!run.receiver.outcome().ok());
    CHECK(!std::filesystem::exists(to + "/memory"));
    std::filesystem::remove_all(to);
    ::mkdir(to.c_str(), 0755);
  }
}

TEST_CASE("names of common files are read as they were written, and nothing else is") {
  const std::vector<CommonFileName> names{{idOf(1), 4096}, {idOf(2), 300'000}};
  Bytes bytes;
  writeCommonFiles(bytes, names);
  const std::string path = std::string(DELTAHOP_GOLDEN_DIR) + "/common_files_basic.dhcommon";
  const char* mode = ::getenv("DELTAHOP_GOLDEN");
  if (mode != nullptr && std::string(mode) == "write") writeTestFile(path, bytes);
  CHECK(bytes == readTestFile(path));
  Reader reader(bytes);
  const auto read = readCommonFiles(reader);
  DH_REQUIRE_OK(read);
  CHECK(read.value() == names);
  Reader truncated(ByteSpan(bytes).first(bytes.size() - 1));
  CHECK(readCommonFiles(truncated).error().code == Code::kTruncated);
  const Bytes none{0};
  Reader empty(none);
  CHECK(readCommonFiles(empty).error().code == Code::kProtocol);
  Bytes many;
  writeCommonFiles(many, std::vector<CommonFileName>(9, {idOf(1), 4096}));
  Reader tooMany(many);
  CHECK(readCommonFiles(tooMany).error().code == Code::kProtocol);
  Bytes large;
  writeCommonFiles(large, std::vector<CommonFileName>(2, {idOf(1), uint64_t{64} << 30}));
  Reader tooLarge(large);
  CHECK(readCommonFiles(tooLarge).error().code == Code::kProtocol);
}

}  // namespace
}  // namespace deltahop
