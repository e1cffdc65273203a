// addContentDigests(): every file's digest, whichever thread made it, and the errors of one thread among two.
#include <atomic>

#include "base/test_support.h"
#include "hash/content_digest.h"
#include "tree/scan.h"

namespace deltahop {
namespace {

struct Scanned {
  Directory root;
  Tree tree;
};

Scanned scan(const TestDirectory& directory) {
  auto root = Directory::openRoot(directory.path(""));
  DH_REQUIRE_OK(root);
  Notes notes;
  auto scanned = scanTree(root.value(), {}, notes);
  DH_REQUIRE_OK(scanned);
  return {std::move(root).value(), std::move(scanned.value().tree)};
}

TEST_CASE("content digests of a tree: small files, large files and holes, each once") {
  const TestDirectory directory;
  TestRandom random(1);
  for (int i = 0; i < 300; ++i) {
    const std::string folder = directory.path("d" + std::to_string(i % 7));
    std::filesystem::create_directory(folder);
    writeTestFile(folder + "/f" + std::to_string(i), random.bytes(random.below(i % 50 == 0 ? 3 << 20 : 3000)));
  }
  // Above the size from which both threads share a file, with a hole of many segments and one inside a segment.
  Bytes large = random.bytes((70 << 20) + 12345);
  std::fill(large.begin() + (20 << 20) + 4096, large.begin() + (40 << 20), uint8_t{0});
  std::fill(large.begin() + (50 << 20) + 8192, large.begin() + (50 << 20) + 65536, uint8_t{0});
  writeSparseTestFile(directory.path("large"), large);
  const Bytes whole = random.bytes(32 << 20);
  writeTestFile(directory.path("whole segments"), whole);

  Scanned scanned = scan(directory);
  uint64_t told = 0;
  ContentDigestOptions options;
  options.onBytes = [&](uint64_t bytes) { told = std::max(told, bytes); };
  DH_REQUIRE_OK(addContentDigests(scanned.root, scanned.tree, options));
  CHECK(told == scanned.tree.totalBytes());
  size_t files = 0;
  for (uint32_t index = 1; index < scanned.tree.size(); ++index) {
    if (!scanned.tree.isRegular(index)) continue;
    ++files;
    const std::string path = scanned.tree.path(index);
    CAPTURE(path);
    ContentHasher hasher;
    hasher.update(readTestFile(directory.path(path)));
    const Digest* digest = scanned.tree.digest(index);
    REQUIRE(digest != nullptr);
    CHECK(*digest == hasher.finish());
  }
  CHECK(files == 302);
}

TEST_CASE("content digests of a tree: a file that changed or vanished is an error, or has none") {
  const TestDirectory directory;
  for (int i = 0; i < 200; ++i) writeTestFile(directory.path("f" + std::to_string(1000 + i)), Bytes(10, 'x'));
  Scanned scanned = scan(directory);
  std::filesystem::remove(directory.path("f1100"));
  writeTestFile(directory.path("f1150"), Bytes(11, 'y'));

  const Status strict = addContentDigests(scanned.root, scanned.tree, {});
  REQUIRE(!strict.ok());
  CHECK((strict.error().code == Code::kNotFound || strict.error().code == Code::kChanged));

  DH_REQUIRE_OK(addContentDigests(scanned.root, scanned.tree, {.strict = false, .onBytes = {}}));
  for (uint32_t index = 1; index < scanned.tree.size(); ++index) {
    const std::string path = scanned.tree.path(index);
    CAPTURE(path);
    CHECK((scanned.tree.digest(index) == nullptr) == (path == "f1100" || path == "f1150"));
  }
}

TEST_CASE("content digests of a tree: files that have one are not read where only the missing are wanted") {
  const TestDirectory directory;
  for (int i = 0; i < 200; ++i) writeTestFile(directory.path("f" + std::to_string(1000 + i)), Bytes(10, 'x'));
  Scanned scanned = scan(directory);
  const Digest known = {1, 2, 3};
  for (uint32_t index = 1; index < scanned.tree.size(); index += 2) scanned.tree.setDigest(index, known);
  DH_REQUIRE_OK(addContentDigests(scanned.root, scanned.tree, {.missingOnly = true, .onBytes = {}}));
  const Digest read = contentDigest(ByteSpan(Bytes(10, 'x')));
  for (uint32_t index = 1; index < scanned.tree.size(); ++index) {
    REQUIRE(scanned.tree.digest(index) != nullptr);
    CHECK(*scanned.tree.digest(index) == (index % 2 == 1 ? known : read));
  }
}

TEST_CASE("content digests of a tree: cancelling ends both threads") {
  const TestDirectory directory;
  for (int i = 0; i < 500; ++i) writeTestFile(directory.path("f" + std::to_string(i)), Bytes(100, 'x'));
  Scanned scanned = scan(directory);
  std::atomic<int> asked = 0;
  const Status status = addContentDigests(scanned.root, scanned.tree, {}, [&] { return ++asked > 50; });
  REQUIRE(!status.ok());
  CHECK(status.error().code == Code::kCancelled);
  CHECK(asked < 60);
}

}  // namespace
}  // namespace deltahop
