// Files of pages to a receiver that has other ones: what goes over is what changed, in few turns, and whatever else
// happens to the receiver's files meanwhile, the result is right.
#include <atomic>
#include <cstring>

#include "base/test_support.h"
#include "io/page_file.h"
#include "job/offers.h"
#include "job/transfer_test_support.h"
#include "tree/tree_test_support.h"

namespace deltahop {
namespace {

constexpr size_t kPages = 1024;

struct BlindFixture {
  BlindFixture() : from(directory.path("from")), to(directory.path("to")) {
    ::mkdir(from.c_str(), 0755);
    ::mkdir(to.c_str(), 0755);
  }
  SendJobOptions send() const {
    SendJobOptions options;
    options.rootPath = from;
    return options;
  }
  ReceiveJobOptions receive(bool inPlace = false) const {
    ReceiveJobOptions options;
    options.rootPath = to;
    options.inPlace = inPlace;
    return options;
  }
  // An image there, and a later one here, of which every tenth page of the first half has another word.
  void makeImages(const std::string& name, uint64_t seed) {
    TestRandom random(seed);
    Bytes content = random.bytes(kPages * kPageBytes);
    writeTestFile(to + "/" + name, content);
    setMtime(to + "/" + name, 1, 0);
    for (size_t page = 0; page < kPages / 2; page += 10) {
      const uint64_t word = random.next();
      std::memcpy(content.data() + page * kPageBytes + 8 * (page % 512), &word, 8);
    }
    writeTestFile(from + "/" + name, content);
  }

  TestDirectory directory;
  std::string from;
  std::string to;
};

TEST_CASE_FIXTURE(BlindFixture, "changed words of an image cost little more than themselves") {
  for (const bool inPlace : {false, true}) {
    CAPTURE(inPlace);
    makeImages("image", 1);
    TransferRun run(send(), receive(inPlace));
    DH_REQUIRE_OK(run.sender.outcome());
    DH_REQUIRE_OK(run.receiver.outcome());
    requireSameTree(from, to);
    // 52 pages: 64 bytes each, their sums, and 5 bytes for each page of that half.
    CHECK(run.bytes() < 52 * 150 + kPages / 2 * 5 + 1000);
    CHECK(run.sender.statistic("signatureBytes") == run.receiver.statistic("signatureBytes"));
    CHECK(run.sender.statistic("matchedBytes") + run.sender.statistic("literalBytes") == kPages * kPageBytes);
    CHECK(run.receiver.statistic("matchedBytes") == run.sender.statistic("matchedBytes"));
    std::filesystem::remove(to + "/image");
  }
}

TEST_CASE_FIXTURE(BlindFixture, "a tree of many images does not cost turns for each of them") {
  for (uint64_t i = 0; i < 100; ++i) {
    TestRandom random(i);
    Bytes content = random.bytes(20 * kPageBytes);
    writeTestFile(to + "/" + std::to_string(i), content);
    setMtime(to + "/" + std::to_string(i), 1, 0);
    content[i * 700] ^= 1;
    writeTestFile(from + "/" + std::to_string(i), content);
  }
  writeTestFile(from + "/small", Bytes(100, 1));
  writeTestFile(from + "/zlarge", TestRandom(200).bytes(300'000));
  uint64_t turns = 0;
  PipeOptions down;
  Message last{};
  down.tamper = watch([&](Message type, std::span<uint8_t>) {
    if (type == Message::kSumsWanted && last != type) ++turns;
    last = type;
  });
  down.pieceBytes = 1 << 20;
  PipeOptions up;
  up.pieceBytes = 1 << 20;
  // Whatever is asked meanwhile goes together.
  up.tamper = [](uint64_t, Bytes&) { std::this_thread::sleep_for(std::chrono::milliseconds(3)); };
  TransferRun run(send(), receive(), down, up);
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  CHECK(turns < 100);
  CHECK(run.sender.statistic("filesSent") == 102);
}

TEST_CASE_FIXTURE(BlindFixture, "a basis that changes after it was summed up is repaired, page by page") {
  for (const bool inPlace : {false, true}) {
    CAPTURE(inPlace);
    makeImages("image", 2);
    bool changed = false;
    PipeOptions up;
    // The sums are on their way, and nothing has come of them yet: no matter how fast who is.
    up.tamper = watch([&](Message type, std::span<uint8_t>) {
      if (type != Message::kSums || changed) return;
      changed = true;
      File basis = openTestFile(to + "/image");
      DH_REQUIRE_OK(basis.writeAt(601 * kPageBytes + 5, Bytes(3, 0xEE)));
      DH_REQUIRE_OK(basis.writeAt(900 * kPageBytes, Bytes(3, 0xEE)));
    });
    TransferRun run(send(), receive(inPlace), {}, up);
    DH_REQUIRE_OK(run.sender.outcome());
    DH_REQUIRE_OK(run.receiver.outcome());
    REQUIRE(changed);
    requireSameTree(from, to);
    CHECK(run.receiver.statistic("repairedFiles") == 1);
    CHECK(run.sender.statistic("repairedFiles") == 1);
    CHECK(run.sender.statistic("filesSent") == 1);
    CHECK(run.receiver.statistic("filesReceived") == 1);
    CHECK(run.sender.statistic("matchedBytes") <= kPages * kPageBytes);
    // The two pages, and sums of pages around them.
    CHECK(run.bytes() < 52 * 150 + kPages / 2 * 5 + 2 * kPageBytes + 3000);
    std::filesystem::remove_all(to + "/image");
  }
}

TEST_CASE_FIXTURE(BlindFixture, "a basis that becomes shorter after it was summed up is no error") {
  makeImages("image", 3);
  bool changed = false;
  PipeOptions up;
  up.tamper = watch([&](Message type, std::span<uint8_t>) {
    if (type != Message::kSums || changed) return;
    changed = true;
    File basis = openTestFile(to + "/image");
    DH_REQUIRE_OK(basis.truncate(300 * kPageBytes));
  });
  TransferRun run(send(), receive(), {}, up);
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  REQUIRE(changed);
  requireSameTree(from, to);
  CHECK(run.receiver.statistic("repairedFiles") == 1);
}

// Both sides hold these, at other times; every tenth is another one of the same size.
uint64_t makeOldFiles(const BlindFixture& fixture, int count, uint64_t bytes) {
  uint64_t differing = 0;
  for (int i = 0; i < count; ++i) {
    const std::string name = "/" + std::to_string(i);
    Bytes content = TestRandom(static_cast<uint64_t>(i)).bytes(bytes + static_cast<uint64_t>(i));
    writeTestFile(fixture.to + name, content);
    setMtime(fixture.to + name, 1000, 0);
    if (i % 10 == 3) {
      content[bytes / 2] ^= 1;
      ++differing;
    }
    writeTestFile(fixture.from + name, content);
    setMtime(fixture.from + name, 2000 + i, 7);
  }
  return differing;
}

TEST_CASE_FIXTURE(BlindFixture, "files that only have another time stay where they are") {
  const uint64_t differing = makeOldFiles(*this, 1000, 5000);
  struct stat before{};
  REQUIRE(::stat((to + "/0").c_str(), &before) == 0);
  TransferRun run(send(), receive());
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  struct stat after{};
  REQUIRE(::stat((to + "/0").c_str(), &after) == 0);
  CHECK(after.st_ino == before.st_ino);
  CHECK(run.receiver.statistic("repairedFiles") == 0);
  CHECK(run.receiver.statistic("filesReceived") == 1000);
  CHECK(run.sender.statistic("filesSent") == 1000);
  CHECK(run.receiver.statistic("matchedBytes") == run.sender.statistic("matchedBytes"));
  CHECK(run.receiver.statistic("literalBytes") <= differing * 512);
  // What the manifest says, a sum and a word of the answer each, and a signature and a block for those that differ.
  CHECK(run.bytes() < 1000 * (12 + kOfferBytes + 4) + differing * (10 * 8 + 100 + 512 + 100));
}

TEST_CASE_FIXTURE(BlindFixture, "a file is not kept for another's sake that has its inode") {
  const Bytes content(3000, 7);
  for (const char* name : {"/a", "/b"}) {
    writeTestFile(from + name, content);
    setMtime(from + name, name[1], 0);
  }
  writeTestFile(to + "/a", content);
  setMtime(to + "/a", 1, 0);
  std::filesystem::create_hard_link(to + "/a", directory.path("outside"));
  std::filesystem::create_hard_link(to + "/a", to + "/b");
  TransferRun run(send(), receive());
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  struct stat outside{};
  REQUIRE(::stat(directory.path("outside").c_str(), &outside) == 0);
  CHECK(outside.st_mtim.tv_sec == 1);
}

TEST_CASE_FIXTURE(BlindFixture, "a file that is written after it was offered is asked for in another way") {
  makeOldFiles(*this, 4, 20'000);
  bool offered = false;
  PipeOptions up;
  up.tamper = watch([&](Message type, std::span<uint8_t>) {
    if (type != Message::kOffer) return;
    offered = true;
    File other = openTestFile(to + "/0");
    DH_REQUIRE_OK(other.writeAt(100, Bytes(3, 0xEE)));
    std::filesystem::remove(to + "/1");
  });
  TransferRun run(send(), receive(), {}, up);
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  CHECK(offered);
  requireSameTree(from, to);
  CHECK(run.receiver.statistic("repairedFiles") == 0);
}

TEST_CASE_FIXTURE(BlindFixture, "a wrong guess among files is found by their digests, and no file is wrong") {
  makeOldFiles(*this, 50, 2000);
  uint64_t confirmed = 0;
  uint64_t asked = 0;
  PipeOptions down;
  down.tamper = watch([&](Message type, std::span<uint8_t> payload) {
    if (type != Message::kSame) return;
    ++confirmed;
    payload[0] ^= 1;
  });
  PipeOptions up;
  up.tamper = watch([&](Message type, std::span<uint8_t>) { asked += type == Message::kSignature; });
  TransferRun run(send(), receive(), down, up);
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  CHECK(confirmed == 1);
  CHECK(asked == 50);
  requireSameTree(from, to);
}

TEST_CASE_FIXTURE(BlindFixture, "an answer to what was not offered is refused") {
  makeOldFiles(*this, 20, 2000);
  writeTestFile(from + "/new", Bytes(300, 1));
  for (const Message kind : {Message::kSame, Message::kDiffers}) {
    PipeOptions down;
    down.pieceBytes = 1 << 20;
    // The last of the list is the one after, which is new or was answered already.
    down.tamper = watch([&](Message type, std::span<uint8_t> payload) {
      if (type == kind) payload[payload.size() - 1] = static_cast<uint8_t>(payload[payload.size() - 1] + 1);
    });
    TransferRun run(send(), receive(), down, {});
    CHECK(run.receiver.outcome().error().code == Code::kProtocol);
    CHECK(!run.sender.outcome().ok());
  }
}

TEST_CASE_FIXTURE(BlindFixture, "version 2 is spoken where a peer knows no other") {
  makeImages("image", 4);
  makeOldFiles(*this, 100, 3000);
  std::atomic<int> old = 0;  // each direction has its thread
  uint64_t offered = 0;
  uint64_t differing = 0;
  const auto makeOld = [&](Message type, std::span<uint8_t> payload) {
    if (type != Message::kSenderHello && type != Message::kReceiverHello) return;
    ++old;
    payload[6] = 2;
  };
  PipeOptions down;
  down.tamper = watch([&](Message type, std::span<uint8_t> payload) {
    makeOld(type, payload);
    differing += type == Message::kDiffers;
  });
  PipeOptions up;
  up.tamper = watch([&](Message type, std::span<uint8_t> payload) {
    makeOld(type, payload);
    if (type == Message::kOffer) offered += payload.size();
  });
  TransferRun run(send(), receive(), down, up);
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  CHECK(old == 2);
  CHECK(offered == 100 * (1 + kLoneOfferBytes));
  CHECK(differing == 0);
  requireSameTree(from, to);
}

TEST_CASE_FIXTURE(BlindFixture, "rolling sums are asked of a receiver of version 5 alone") {
  TestRandom random(10);
  const Bytes old = random.bytes(kPages * kPageBytes);
  Bytes content = old;
  for (size_t page = 0; page < 800; ++page) content[page * kPageBytes] ^= 1;
  content.push_back(7);
  content.insert(content.end(), old.begin(), old.begin() + 800 * kPageBytes);
  content.resize(content.size() / kPageBytes * kPageBytes);
  for (const uint8_t version : {uint8_t{4}, uint8_t{5}}) {
    CAPTURE(version);
    writeTestFile(to + "/image", old);
    setMtime(to + "/image", 1, 0);
    writeTestFile(from + "/image", content);
    uint64_t rolling = 0;
    PipeOptions down;
    down.tamper = watch([&](Message type, std::span<uint8_t> payload) {
      if (type == Message::kSumsWanted) rolling += (payload[2] & kRollingSums) != 0;
    });
    PipeOptions up;
    up.tamper = watch([&](Message type, std::span<uint8_t> payload) {
      if (type == Message::kReceiverHello) payload[6] = version;
    });
    TransferRun run(send(), receive(), down, up);
    DH_REQUIRE_OK(run.sender.outcome());
    DH_REQUIRE_OK(run.receiver.outcome());
    requireSameTree(from, to);
    CHECK(rolling == (version == 5 ? 2 : 0));
    CHECK(run.sender.statistic("literalBytes") < (version == 5 ? 300'000 : 4'000'000));
    CHECK(run.sender.statistic("literalBytes") > (version == 5 ? 0 : 3'000'000));
  }
}

TEST_CASE_FIXTURE(BlindFixture, "files that are new are compressed with each other in view, whatever their size") {
  TestRandom random(9);
  Bytes text;
  while (text.size() < 400'000) {
    for (const char letter : std::to_string(random.next())) text.push_back(static_cast<uint8_t>(letter));
  }
  for (int i = 0; i < 6; ++i) {
    text[static_cast<size_t>(i) * 1000] = '\n';
    writeTestFile(from + "/large" + std::to_string(i), text);
    writeTestFile(from + "/small" + std::to_string(i), Bytes(text.begin(), text.begin() + 50'000));
  }
  TransferRun run(send(), receive());
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  // Digits: ten of 256 for each byte.
  CHECK(run.bytes() < 400'000 / 2 + 6000);
}

TEST_CASE_FIXTURE(BlindFixture, "a transfer of images that is cut anywhere goes on") {
  for (const bool inPlace : {false, true}) {
    TestRandom random(5);
    for (int i = 0; i < 6; ++i) makeImages("image" + std::to_string(i), random.next());
    int cuts = 0;
    for (bool done = false; !done; ++cuts) {
      REQUIRE(cuts < 40);
      PipeOptions cut;
      cut.pieceBytes = 3000;
      cut.cutAfterBytes = cuts < 10 ? 500 + random.below(20'000) : UINT64_MAX;
      TransferRun run(send(), receive(inPlace), cut, cut);
      done = run.ok();
    }
    CHECK(cuts > 1);
    requireSameTree(from, to);
    std::filesystem::remove_all(to);
    ::mkdir(to.c_str(), 0755);
  }
}

TEST_CASE_FIXTURE(BlindFixture, "a renamed directory and copies of files cost no content") {
  TestRandom random(7);
  ::mkdir((from + "/old").c_str(), 0755);
  for (int i = 0; i < 50; ++i) {
    writeTestFile(from + "/old/" + std::to_string(i), random.bytes(100 + random.below(20'000)));
    setMtime(from + "/old/" + std::to_string(i), 1000 + i, 5);
  }
  writeTestFile(from + "/old/large", random.bytes(500'000));
  TransferRun first(send(), receive());
  DH_REQUIRE_OK(first.receiver.outcome());
  std::filesystem::rename(from + "/old", from + "/new");
  ::mkdir((from + "/copies").c_str(), 0755);
  std::filesystem::copy(from + "/new/large", from + "/copies/large");
  // As long as one that is there, and something else.
  Bytes other = readTestFile(from + "/new/7");
  other[0] ^= 1;
  std::filesystem::remove(from + "/new/7");
  writeTestFile(from + "/new/7", other);
  TransferRun run(send(), receive());
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  CHECK(run.receiver.statistic("literalBytes") == other.size());
  CHECK(run.receiver.statistic("filesReceived") == 52);
  CHECK(run.sender.statistic("filesSent") == 52);
  CHECK(run.receiver.statistic("matchedBytes") == run.sender.statistic("matchedBytes"));
  // A keyed digest each, what the manifest says of them, and the one file.
  CHECK(run.bytes() < 52 * (16 + 40) + other.size() + 1000);
}

TEST_CASE_FIXTURE(BlindFixture, "a file that was offered and is another by now, or gone, is sent") {
  TestRandom random(8);
  for (const char* name : {"/a", "/b", "/c"}) {
    writeTestFile(from + name, random.bytes(200'000));
    setMtime(from + name, 1000, 5);
  }
  TransferRun first(send(), receive());
  DH_REQUIRE_OK(first.receiver.outcome());
  ::mkdir((from + "/moved").c_str(), 0755);
  for (const char* name : {"/a", "/b", "/c"}) std::filesystem::rename(from + name, from + "/moved" + name);
  bool offered = false;
  PipeOptions up;
  up.tamper = watch([&](Message type, std::span<uint8_t>) {
    if (type != Message::kOffer) return;
    offered = true;
    std::filesystem::remove(to + "/a");
    File other = openTestFile(to + "/b");
    DH_REQUIRE_OK(other.writeAt(100'000, Bytes(3, 0xEE)));
  });
  TransferRun run(send(), receive(), {}, up);
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  CHECK(offered);
  requireSameTree(from, to);
  CHECK(run.receiver.statistic("repairedFiles") == 2);
  CHECK(run.sender.statistic("filesSent") == 3);
  CHECK(run.bytes() < 200'000 + 2 * 4096 + 5000);
}

TEST_CASE_FIXTURE(BlindFixture, "files that vanish while they are asked about are gone, and the others come") {
  for (int i = 0; i < 5; ++i) makeImages("image" + std::to_string(i), 60 + static_cast<uint64_t>(i));
  bool removed = false;
  PipeOptions up;
  up.tamper = watch([&](Message type, std::span<uint8_t>) {
    if (type != Message::kPagesWanted || removed) return;
    removed = true;
    std::filesystem::remove(from + "/image0");
    std::filesystem::remove(from + "/image3");
  });
  SendJobOptions options = send();
  options.allowChanging = true;
  TransferRun run(options, receive(), {}, up);
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  CHECK(removed);
  CHECK(run.receiver.statistic("goneFiles") == 2);
  for (const std::string name : {"/image1", "/image2", "/image4"}) {
    CHECK(readTestFile(to + name) == readTestFile(from + name));
  }
}

}  // namespace
}  // namespace deltahop
