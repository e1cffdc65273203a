#include "tree/record.h"

#include "base/test_support.h"
#include "hash/content_digest.h"
#include "tree/manifest.h"
#include "tree/tree_test_support.h"

namespace deltahop {
namespace {

ScanResult scanWithStamps(const std::string& path) {
  const auto root = Directory::openRoot(path);
  DH_REQUIRE_OK(root);
  Notes notes;
  auto scanned = scanTree(root.value(), {{}, {}, true}, notes);
  DH_REQUIRE_OK(scanned);
  DH_REQUIRE_OK(addContentDigests(root.value(), scanned.value().tree, {}));
  return std::move(scanned).value();
}

// Files of `now` that the record of `then` knows.
size_t known(const ScanResult& then, const std::string& path) {
  const auto record = decodeRecord(encodeRecord(then.tree, then.stamps));
  DH_REQUIRE_OK(record);
  const auto root = Directory::openRoot(path);
  DH_REQUIRE_OK(root);
  Notes notes;
  auto now = scanTree(root.value(), {{}, {}, true}, notes);
  DH_REQUIRE_OK(now);
  Tree& tree = now.value().tree;
  addRecordedDigests(record.value(), tree, now.value().stamps);
  Tree truth = tree;
  DH_REQUIRE_OK(addContentDigests(root.value(), truth, {}));
  size_t count = 0;
  for (uint32_t index = 0; index < tree.size(); ++index) {
    if (!tree.isRegular(index) || tree.digest(index) == nullptr) continue;
    ++count;
    CHECK(*tree.digest(index) == *truth.digest(index));
  }
  return count;
}

TEST_CASE("a record comes back as it was, and nothing else is taken for one") {
  TestDirectory directory;
  ::mkdir(directory.path("tree").c_str(), 0755);
  RandomTree(directory.path("tree"), 7).mutate(120);
  const ScanResult scanned = scanWithStamps(directory.path("tree"));
  DH_REQUIRE_OK(writeRecord(directory.path("record"), scanned.tree, scanned.stamps));
  const auto record = readRecord(directory.path("record"));
  REQUIRE(record.has_value());
  CHECK(record->stamps.size() == record->tree.size());
  CHECK(manifestDigest(record->tree) == manifestDigest(scanned.tree));
  const Bytes bytes = readTestFile(directory.path("record"));
  TestRandom random(8);
  for (int i = 0; i < 300; ++i) {
    Bytes damaged = bytes;
    const size_t at = random.below(damaged.size());
    damaged[at] = static_cast<uint8_t>(damaged[at] ^ (1 + random.below(255)));
    CHECK(!decodeRecord(damaged).ok());
    CHECK(!decodeRecord(ByteSpan(bytes).first(at)).ok());
  }
  CHECK(!readRecord(directory.path("nothing")).has_value());
  CHECK(!readRecord(directory.path("tree")).has_value());
}

TEST_CASE("a record knows a file until it is written, replaced or touched") {
  TestDirectory directory;
  const std::string root = directory.path("tree");
  ::mkdir(root.c_str(), 0755);
  for (const char* name : {"/a", "/b", "/c", "/d"}) writeTestFile(root + name, Bytes(100, 7));
  const ScanResult scanned = scanWithStamps(root);
  if (scanned.stamps[1].inode == 0) {
    MESSAGE("skipped: this file system's clock is too coarse for files just written");
    return;
  }
  CHECK(known(scanned, root) == 4);
  // A rename of the directory changes nothing about its files.
  REQUIRE(::rename(root.c_str(), directory.path("moved").c_str()) == 0);
  const std::string moved = directory.path("moved");
  CHECK(known(scanned, moved) == 4);
  // Same size, and the old mtime is put back at once: the ctime tells.
  struct stat status{};
  REQUIRE(::stat((moved + "/a").c_str(), &status) == 0);
  writeTestFile(moved + "/a", Bytes(100, 8));
  setMtime(moved + "/a", status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
  CHECK(known(scanned, moved) == 3);
  // Another inode of the same time and size.
  REQUIRE(::stat((moved + "/b").c_str(), &status) == 0);
  writeTestFile(moved + "/new", Bytes(100, 9));
  setMtime(moved + "/new", status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
  REQUIRE(::rename((moved + "/new").c_str(), (moved + "/b").c_str()) == 0);
  CHECK(known(scanned, moved) == 2);
}

TEST_CASE("golden record") {
  // One directory with one file, at fixed times.
  Tree tree;
  const auto list = tree.internXattrs({});
  DH_REQUIRE_OK(list);
  const auto add = [&](std::string_view name, uint32_t mode, uint64_t value, uint32_t parent, uint16_t depth) {
    Entry entry;
    entry.mtimeSeconds = 1'700'000'000;
    entry.mtimeNanoseconds = 5;
    entry.parent = parent;
    entry.depth = depth;
    entry.value = value;
    const auto attributes = tree.internAttributes({mode, 0, 0, list.value()});
    DH_REQUIRE_OK(attributes);
    entry.attributes = attributes.value();
    DH_REQUIRE_OK(tree.append(name, entry));
  };
  add("", S_IFDIR | 0755, 0, kNoEntry, 0);
  add("file", S_IFREG | 0644, 3, 0, 1);
  tree.setDigest(1, contentDigest(Bytes{1, 2, 3}));
  const Bytes bytes = encodeRecord(tree, {{}, {77, 1'700'000'001, 999}});
  const std::string path = std::string(DELTAHOP_GOLDEN_DIR) + "/record_basic.dhrecord";
  const char* mode = ::getenv("DELTAHOP_GOLDEN");
  if (mode != nullptr && std::string(mode) == "write") writeTestFile(path, bytes);
  CHECK(bytes == readTestFile(path));
}

}  // namespace
}  // namespace deltahop
