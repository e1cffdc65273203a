// A tree's way from a sender to a receiver: equal afterwards, whatever lay there before and wherever the stream was
// cut.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/test_support.h"
#include "job/transfer_test_support.h"
#include "job/tree_digest_job.h"
#include "tree/tree_test_support.h"

namespace deltahop {
namespace {

struct TransferFixture {
  TransferFixture() : from(directory.path("from")), to(directory.path("to")) { ::mkdir(from.c_str(), 0755); }
  SendJobOptions send(bool verify = false) const {
    SendJobOptions options;
    options.rootPath = from;
    options.verify = verify;
    return options;
  }
  ReceiveJobOptions receive(bool durable = false) const { return {to, durable, false}; }
  void transfer(bool verify = false, bool durable = false) {
    TransferRun run(send(verify), receive(durable));
    DH_REQUIRE_OK(run.sender.outcome());
    DH_REQUIRE_OK(run.receiver.outcome());
    requireSameTree(from, to);
  }

  TestDirectory directory;
  std::string from;
  std::string to;
};

TEST_CASE_FIXTURE(TransferFixture, "a tree arrives, then costs nothing when unchanged") {
  ::mkdir((from + "/sub").c_str(), 0750);
  TestRandom random(1);
  writeTestFile(from + "/sub/large", random.bytes(3'000'000));
  writeTestFile(from + "/small", random.bytes(100));
  writeTestFile(from + "/empty", {});
  REQUIRE(::symlink("sub/large", (from + "/link").c_str()) == 0);
  transfer();
  TransferRun again(send(), receive());
  REQUIRE(again.ok());
  CHECK(again.bytes() < 200);
  CHECK(again.receiver.statistic("filesSettled") == 3);
  requireSameTree(from, to);
}

TEST_CASE_FIXTURE(TransferFixture, "an insertion in front of a large file costs little") {
  TestRandom random(2);
  Bytes content = random.bytes(8 << 20);
  writeTestFile(from + "/image", content);
  transfer();
  content.insert(content.begin(), 0x55);
  writeTestFile(from + "/image", content);
  TransferRun run(send(), receive());
  REQUIRE(run.ok());
  CHECK(run.receiver.statistic("literalBytes") < 64 << 10);
  CHECK(run.bytes() < 200 << 10);
  requireSameTree(from, to);
}

TEST_CASE_FIXTURE(TransferFixture, "random trees, changed at random, arrive equal") {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    CAPTURE(seed);
    RandomTree tree(from, seed);
    tree.mutate(150);
    for (int round = 0; round < 5; ++round) {
      CAPTURE(round);
      PipeOptions narrow;
      narrow.pieceBytes = 1 + tree.random().below(5000);
      TransferRun run(send(round % 2 == 1), receive(round % 3 == 1), narrow, narrow);
      DH_REQUIRE_OK(run.sender.outcome());
      DH_REQUIRE_OK(run.receiver.outcome());
      requireSameTree(from, to);
      tree.mutate(40);
      // The receiver's own tree changes as well: it must become the sender's all the same.
      RandomTree(to, seed * 100 + static_cast<uint64_t>(round)).mutate(10);
    }
    std::filesystem::remove_all(from);
    std::filesystem::remove_all(to);
  }
}

TEST_CASE_FIXTURE(TransferFixture, "everything that root may make arrives") {
  if (!isRoot()) {
    MESSAGE("skipped: owners, devices and trusted attributes need root");
    return;
  }
  // Version 2 of a capability: cap_net_raw, permitted and effective.
  const uint8_t capability[20] = {1, 0, 0, 2, 0, 0x20, 0, 0};
  writeTestFile(from + "/ping", Bytes{1, 2, 3});
  REQUIRE(::setxattr((from + "/ping").c_str(), "security.capability", capability, sizeof capability, 0) == 0);
  REQUIRE(::chown((from + "/ping").c_str(), 100123, 100456) == 0);
  REQUIRE(::setxattr((from + "/ping").c_str(), "security.capability", capability, sizeof capability, 0) == 0);
  writeTestFile(from + "/setuid", Bytes{1});
  REQUIRE(::chown((from + "/setuid").c_str(), 33, 44) == 0);
  REQUIRE(::chmod((from + "/setuid").c_str(), 06755) == 0);
  // user::rw-, user:1000:rwx, group::r--, mask::rwx, other::---
  const uint8_t acl[] = {2, 0,    0,   0,   1,   0,   6,  0, 255, 255, 255, 255, 2,   0,  7,
                         0, 0xe8, 3,   0,   0,   4,   0,  4, 0,   255, 255, 255, 255, 16, 0,
                         7, 0,    255, 255, 255, 255, 32, 0, 0,   0,   255, 255, 255, 255};
  ::mkdir((from + "/acl").c_str(), 0700);
  REQUIRE(::setxattr((from + "/acl").c_str(), "system.posix_acl_default", acl, sizeof acl, 0) == 0);
  writeTestFile(from + "/acl/inside", Bytes{7});
  REQUIRE(::setxattr((from + "/acl/inside").c_str(), "system.posix_acl_access", acl, sizeof acl, 0) == 0);
  writeTestFile(from + "/acl/plain", Bytes{8});
  REQUIRE(::removexattr((from + "/acl/plain").c_str(), "system.posix_acl_access") == 0);
  REQUIRE(::mknod((from + "/whiteout").c_str(), S_IFCHR | 0, makedev(0, 0)) == 0);
  REQUIRE(::mknod((from + "/disk").c_str(), S_IFBLK | 0660, makedev(259, 70001)) == 0);
  REQUIRE(::mknod((from + "/pipe").c_str(), S_IFIFO | 0622, 0) == 0);
  ::mkdir((from + "/opaque").c_str(), 0755);
  REQUIRE(::setxattr((from + "/opaque").c_str(), "trusted.overlay.opaque", "y", 1, 0) == 0);
  REQUIRE(::symlink("\xff/../x y", (from + "/symlink").c_str()) == 0);
  REQUIRE(::lsetxattr((from + "/symlink").c_str(), "trusted.of.link", "v", 1, 0) == 0);
  REQUIRE(::lchown((from + "/symlink").c_str(), 5, 6) == 0);
  setMtime(from + "/symlink", 1234, 987654321);
  REQUIRE(::link((from + "/ping").c_str(), (from + "/acl/pong").c_str()) == 0);
  REQUIRE(::link((from + "/pipe").c_str(), (from + "/acl/pipe").c_str()) == 0);
  setMtime(from + "/acl", 99, 123456789);
  setMtime(from, 1'000'000'000, 1);
  for (const bool durable : {false, true}) {
    transfer(false, durable);
    TransferRun again(send(), receive());
    CHECK(again.bytes() < 200);
  }
  // The links come apart, the attributes go.
  REQUIRE(::unlink((from + "/acl/pong").c_str()) == 0);
  writeTestFile(from + "/acl/pong", Bytes{1, 2, 3});
  setMtime(from + "/acl/pong", 5, 6);
  setMtime(from + "/ping", 5, 6);
  REQUIRE(::removexattr((from + "/opaque").c_str(), "trusted.overlay.opaque") == 0);
  transfer();
  SendJobOptions excluding = send();
  excluding.excludeXattrs = {"security.capability"};
  TransferRun without(excluding, receive());
  REQUIRE(without.ok());
  char value[64];
  CHECK(::getxattr((to + "/ping").c_str(), "security.capability", value, sizeof value) < 0);
}

TEST_CASE_FIXTURE(TransferFixture, "holes stay holes") {
  File file = openTestFile(from + "/sparse");
  TestRandom random(3);
  DH_REQUIRE_OK(file.writeAt(200 << 20, random.bytes(100'000)));
  DH_REQUIRE_OK(file.truncate(uint64_t{1} << 30));
  TransferRun run(send(), receive());
  REQUIRE(run.ok());
  CHECK(run.bytes() < 200'000);
  struct stat status{};
  REQUIRE(::stat((to + "/sparse").c_str(), &status) == 0);
  CHECK(status.st_size == 1 << 30);
  CHECK(status.st_blocks * 512 <= 200'000);
  // Equal by the digests of both, which a walk over 1 GiB byte by byte would take long to say.
  TransferRun verified(send(true), receive());
  REQUIRE(verified.ok());
  CHECK(verified.receiver.statistic("filesSettled") == 1);
}

TEST_CASE_FIXTURE(TransferFixture, "kinds change into each other") {
  writeTestFile(from + "/a", Bytes{1});
  ::mkdir((from + "/b").c_str(), 0755);
  REQUIRE(::symlink("x", (from + "/c").c_str()) == 0);
  ::mkdir((from + "/d").c_str(), 0755);
  writeTestFile(from + "/d/1", Bytes(200'000, 7));
  ::mkdir(to.c_str(), 0755);
  ::mkdir((to + "/a").c_str(), 0755);
  ::mkdir((to + "/a/deep").c_str(), 0755);
  writeTestFile(to + "/a/deep/file", Bytes{1});
  writeTestFile(to + "/b", Bytes{2});
  ::mkdir((to + "/c").c_str(), 0755);
  writeTestFile(to + "/c/file", Bytes{3});
  // Where a directory is wanted lies a symlink that leads outside.
  const std::string outside = directory.path("outside");
  ::mkdir(outside.c_str(), 0755);
  writeTestFile(outside + "/1", Bytes{9});
  REQUIRE(::symlink(outside.c_str(), (to + "/d").c_str()) == 0);
  transfer();
  CHECK(readTestFile(outside + "/1") == Bytes{9});
}

TEST_CASE_FIXTURE(TransferFixture, "a socket is left out with a note, and goes at the receiver") {
  const auto makeSocket = [](const std::string& path) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    REQUIRE(::bind(fd, reinterpret_cast<struct sockaddr*>(&address), sizeof address) == 0);
    ::close(fd);
  };
  makeSocket(from + "/socket");
  writeTestFile(from + "/file", Bytes{1});
  ::mkdir((from + "/x").c_str(), 0755);
  ::mkdir(to.c_str(), 0755);
  makeSocket(to + "/x");
  TransferRun run(send(), receive());
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  REQUIRE(run.sender.outcome().value().notes.size() == 1);
  CHECK(run.sender.outcome().value().notes[0].find("socket") != std::string::npos);
  CHECK(!std::filesystem::exists(to + "/socket"));
  CHECK(std::filesystem::is_directory(to + "/x"));
}

TEST_CASE_FIXTURE(TransferFixture, "verify finds what times hide") {
  writeTestFile(from + "/file", Bytes(5000, 1));
  setMtime(from + "/file", 77, 0);
  transfer();
  writeTestFile(to + "/file", Bytes(5000, 2));
  setMtime(to + "/file", 77, 0);
  setMtime(to, modelOf(from).size(), 0);
  TransferRun quick(send(false), receive());
  REQUIRE(quick.ok());
  CHECK(readTestFile(to + "/file") == Bytes(5000, 2));
  transfer(true);
}

TEST_CASE_FIXTURE(TransferFixture, "a stream cut anywhere is continued and little is sent twice") {
  TestRandom random(4);
  for (int i = 0; i < 20; ++i) writeTestFile(from + "/small" + std::to_string(i), random.bytes(20'000));
  writeTestFile(from + "/large", random.bytes(6 << 20));
  ::mkdir((from + "/z").c_str(), 0755);
  for (int i = 0; i < 5; ++i) writeTestFile(from + "/z/middle" + std::to_string(i), random.bytes(300'000));
  const uint64_t treeBytes = 20 * 20'000 + (6 << 20) + 5 * 300'000;
  for (const bool durable : {false, true}) {
    for (int round = 0; round < 2; ++round) {
      CAPTURE(round);
      std::filesystem::remove_all(to);
      uint64_t total = 0;
      int cuts = 0;
      for (bool done = false; !done;) {
        PipeOptions cut;
        cut.pieceBytes = 10'000;
        cut.cutAfterBytes = cuts < 8 ? 1000 + random.below(2'000'000) : UINT64_MAX;
        TransferRun run(send(), receive(durable), cut);
        total += run.bytes();
        done = run.ok();
        if (done) break;
        ++cuts;
        CHECK(run.receiver.outcome().error().code == Code::kTruncated);
        // Whatever stands under its live name is whole.
        for (const auto& entry : std::filesystem::recursive_directory_iterator(from)) {
          if (!entry.is_regular_file()) continue;
          const std::string other = to + entry.path().string().substr(from.size());
          if (std::filesystem::exists(other)) REQUIRE(readTestFile(other) == readTestFile(entry.path().string()));
        }
      }
      CHECK(cuts > 0);
      requireSameTree(from, to);
      // For each cut: the block in flight, the manifest, the signatures of what is there.
      CHECK(total < treeBytes + static_cast<uint64_t>(cuts + 1) * 700'000);
    }
  }
}

TEST_CASE_FIXTURE(TransferFixture, "damaged streams change no file under its live name to anything wrong") {
  TestRandom random(5);
  for (int i = 0; i < 10; ++i) writeTestFile(from + "/f" + std::to_string(i), random.bytes(90'000));
  RandomTree(from + "/random", 9).mutate(60);
  transfer();
  const TreeModel before = modelOf(to);
  for (int i = 0; i < 10; ++i) {
    Bytes content = readTestFile(from + "/f" + std::to_string(i));
    content[40'000] ^= 1;
    content.resize(content.size() + 500, 3);
    writeTestFile(from + "/f" + std::to_string(i), content);
  }
  const TreeModel after = modelOf(from);
  for (int round = 0; round < 60; ++round) {
    CAPTURE(round);
    const uint64_t at = random.below(round < 30 ? 2000 : 20'000);
    const auto flip = static_cast<uint8_t>(1 + random.below(255));
    PipeOptions tampered;
    tampered.tamper = [&](uint64_t offset, Bytes& bytes) {
      if (at >= offset && at - offset < bytes.size()) bytes[at - offset] ^= flip;
    };
    TransferRun run(send(), receive(), round % 2 ? PipeOptions{} : tampered, round % 2 ? tampered : PipeOptions{});
    // Bytes of metadata in the manifest are not content: only files are looked at here.
    for (const auto& entry : std::filesystem::recursive_directory_iterator(to)) {
      const std::string path = "." + entry.path().string().substr(to.size());
      if (!entry.is_regular_file() || entry.is_symlink() || path.find(".deltahop-partial") != std::string::npos)
        continue;
      const auto content = [&](const TreeModel& model) {
        const auto found = model.find(path);
        return found == model.end() ? std::string("none") : found->second.substr(found->second.find(" content "));
      };
      const Bytes now = readTestFile(entry.path().string());
      const std::string text = " content " + toHex(blake3(now));
      if (before.contains(path)) {
        CHECK((text == content(before) || text == content(after)));
      }
    }
  }
  transfer(true);
}

TEST_CASE_FIXTURE(TransferFixture, "full pipes in both directions do not stop a transfer") {
  // Over 4 MiB of signatures, the most that a queue takes, against over 4 MiB of answers, both through 1 KiB pieces.
  TestRandom random(6);
  ::mkdir(to.c_str(), 0755);
  writeTestFile(to + "/0", random.bytes((1 << 20) - 1));
  for (int i = 0; i < 750; ++i) {
    writeTestFile(from + "/" + std::to_string(i), random.bytes(70'000));
    if (i > 0) REQUIRE(::link((to + "/0").c_str(), (to + "/" + std::to_string(i)).c_str()) == 0);
  }
  PipeOptions down;
  down.pieceBytes = 1024;
  down.startAfter = std::chrono::milliseconds(0);
  PipeOptions up = down;
  // Nobody reads the requests for a while; they fill the queue.
  up.startAfter = std::chrono::milliseconds(1500);
  TransferRun run(send(), receive(), down, up);
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  CHECK(run.receiver.statistic("signatureBytes") > 4 << 20);
  requireSameTree(from, to);
}

TEST_CASE_FIXTURE(TransferFixture, "cancel ends both sides at any time") {
  TestRandom random(7);
  for (int i = 0; i < 200; ++i) writeTestFile(from + "/" + std::to_string(i), random.bytes(50'000));
  for (int round = 0; round < 8; ++round) {
    JobEnd sender(makeSendJob(send()));
    JobEnd receiver(makeReceiveJob(receive()));
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(5 * round);
    while (std::chrono::steady_clock::now() < until) {
      receiver.job().writeInput(sender.job().readOutput());
      sender.job().writeInput(receiver.job().readOutput());
    }
    receiver.job().cancel();
    sender.job().cancel();
    while (!receiver.ended() || !sender.ended()) receiver.wait();
    CHECK(!receiver.outcome().ok());
    CHECK(receiver.outcome().error().code == Code::kCancelled);
  }
  // Jobs that are dropped while they run.
  for (int round = 0; round < 4; ++round) {
    JobEnd sender(makeSendJob(send()));
    JobEnd receiver(makeReceiveJob(receive()));
    receiver.job().writeInput(sender.job().readOutput());
  }
  transfer();
}

TEST_CASE_FIXTURE(TransferFixture, "a tree that changes all the time is followed") {
  TestRandom random(8);
  for (int i = 0; i < 100; ++i) writeTestFile(from + "/" + std::to_string(i), random.bytes(70'000));
  writeTestFile(from + "/big", random.bytes(8 << 20));
  std::atomic<bool> stop{false};
  std::thread changer([&] {
    TestRandom other(9);
    for (uint64_t i = 0; !stop; ++i) {
      const std::string path = from + "/" + std::to_string(other.below(100));
      if (i % 3 == 0) {
        ::unlink(path.c_str());
      } else {
        const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT, 0644);
        const Bytes bytes = other.bytes(other.below(70'000));
        if (::write(fd, bytes.data(), bytes.size()) < 0 ||
            ::ftruncate(fd, static_cast<off_t>(other.below(90'000))) != 0)
          break;
        ::close(fd);
      }
      const int fd = ::open((from + "/big").c_str(), O_WRONLY);
      const Bytes bytes = other.bytes(4096);
      if (::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(other.below(8 << 20))) < 0) break;
      ::close(fd);
    }
  });
  for (int round = 0; round < 4; ++round) {
    SendJobOptions options = send();
    options.allowChanging = true;
    TransferRun run(options, receive());
    CHECK(run.sender.outcome().ok());
    CHECK(run.receiver.outcome().ok());
  }
  stop = true;
  changer.join();
  transfer(true);
}

TEST_CASE_FIXTURE(TransferFixture, "a live tree that must not change says so") {
  writeTestFile(from + "/file", TestRandom(10).bytes(8 << 20));
  std::atomic<bool> stop{false};
  std::atomic<bool> started{false};
  std::thread changer([&] {
    while (!stop) {
      started = true;
      const int fd = ::open((from + "/file").c_str(), O_WRONLY);
      (void)!::pwrite(fd, "x", 1, 10);
      ::close(fd);
    }
  });
  while (!started) std::this_thread::yield();
  TransferRun run(send(), receive());
  stop = true;
  changer.join();
  REQUIRE(!run.sender.outcome().ok());
  CHECK(run.sender.outcome().error().code == Code::kChanged);
  REQUIRE(!run.receiver.outcome().ok());
  CHECK(run.receiver.outcome().error().code == Code::kPeer);
  CHECK(run.receiver.outcome().error().context.find("file changed") == 0);
}

TEST_CASE_FIXTURE(TransferFixture, "a hundred thousand small files are not a hundred thousand round trips") {
  for (int i = 0; i < 3000; ++i) writeTestFile(from + "/" + std::to_string(i), Bytes(50, static_cast<uint8_t>(i)));
  // Each direction moves only once a while; a round trip a file would take minutes.
  uint64_t turns = 0;
  PipeOptions slow;
  slow.pieceBytes = 1 << 20;
  slow.tamper = [&](uint64_t, Bytes&) {
    ++turns;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  };
  TransferRun run(send(), receive(), slow);
  REQUIRE(run.ok());
  CHECK(turns < 100);
  CHECK(run.bytes() < 3000 * 60);
  requireSameTree(from, to);
}

TEST_CASE_FIXTURE(TransferFixture, "the digest of a tree is the same on both sides and tells every change") {
  RandomTree tree(from, 77);
  tree.mutate(120);
  ReceiveJobOptions options = receive();
  options.treeDigest = true;
  const auto digest = [&](const std::string& root) {
    JobEnd end(makeTreeDigestJob({root, {}}));
    while (!end.ended()) end.wait();
    DH_REQUIRE_OK(end.outcome());
    return end.outcome().value().text;
  };
  TransferRun run(send(), options);
  REQUIRE(run.ok());
  const std::string first = digest(from);
  CHECK(first.size() == 7 + 64);
  CHECK(run.receiver.outcome().value().text == first);
  CHECK(digest(to) == first);
  setMtime(to, 1, 1);
  const std::string second = digest(to);
  CHECK(second != first);
  writeTestFile(to + "/one", Bytes{1});
  setMtime(to + "/one", 1, 1);
  setMtime(to, 1, 1);
  const std::string third = digest(to);
  CHECK(third != second);
  writeTestFile(to + "/one", Bytes{2});
  setMtime(to + "/one", 1, 1);
  setMtime(to, 1, 1);
  CHECK(digest(to) != third);
}

TEST_CASE_FIXTURE(TransferFixture, "a full disk is told by name, and the next try goes on") {
  if (!isRoot()) {
    MESSAGE("skipped: a small file system needs root");
    return;
  }
  TestRandom random(11);
  writeTestFile(from + "/a-fits", random.bytes(2 << 20));
  writeTestFile(from + "/b-large", random.bytes(6 << 20));
  ::mkdir(to.c_str(), 0755);
  // The mount lives in a namespace of this thread and the jobs that it starts, and goes with them.
  std::thread([&] {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", to.c_str(), "tmpfs", 0, "size=4m") != 0) {
      MESSAGE("skipped: no mount namespace may be made here");
      return;
    }
    {
      TransferRun run(send(), receive());
      REQUIRE(!run.receiver.outcome().ok());
      CHECK(run.receiver.outcome().error().code == Code::kNoSpace);
      CHECK(run.receiver.outcome().error().context.find("b-large") == 0);
      REQUIRE(!run.sender.outcome().ok());
      CHECK(run.sender.outcome().error().code == Code::kPeer);
      CHECK(run.sender.outcome().error().context.find("no space left: b-large") == 0);
      CHECK(!std::filesystem::exists(to + "/b-large"));
      CHECK(readTestFile(to + "/a-fits") == readTestFile(from + "/a-fits"));
    }
    REQUIRE(::mount("none", to.c_str(), "tmpfs", MS_REMOUNT, "size=32m") == 0);
    TransferRun again(send(), receive());
    DH_REQUIRE_OK(again.receiver.outcome());
    DH_REQUIRE_OK(again.sender.outcome());
    CHECK(again.receiver.statistic("filesSettled") == 1);
    requireSameTree(from, to);
  }).join();
}

TEST_CASE_FIXTURE(TransferFixture, "a missing tree is an error on both sides") {
  SendJobOptions options = send();
  options.rootPath = directory.path("nowhere");
  TransferRun run(options, receive());
  REQUIRE(!run.sender.outcome().ok());
  CHECK(run.sender.outcome().error().code == Code::kNotFound);
  REQUIRE(!run.receiver.outcome().ok());
  CHECK(run.receiver.outcome().error().code == Code::kPeer);
}

}  // namespace
}  // namespace deltahop
