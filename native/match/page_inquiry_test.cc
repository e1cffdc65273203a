#include "match/page_inquiry.h"

#include <cstring>

#include "base/test_support.h"

namespace deltahop {
namespace {

// Puts a target together again in memory.
struct Rebuilt : DeltaSink {
  explicit Rebuilt(const Bytes& oldBytes) : old(oldBytes) {}
  Status copy(uint64_t offset, uint64_t length) override {
    REQUIRE(offset + length <= old.size());
    bytes.insert(bytes.end(), old.begin() + static_cast<ptrdiff_t>(offset),
                 old.begin() + static_cast<ptrdiff_t>(offset + length));
    return {};
  }
  Status literal(ByteSpan data) override {
    bytes.insert(bytes.end(), data.begin(), data.end());
    literalBytes += data.size();
    return {};
  }
  Status zeros(uint64_t length) override {
    bytes.resize(bytes.size() + length);
    return {};
  }
  const Bytes& old;
  Bytes bytes;
  uint64_t literalBytes = 0;
};

struct Inquired {
  Bytes rebuilt;
  Digest digest{};
  uint64_t literalBytes = 0;
  uint64_t sumBytes = 0;
};

struct Conversation {
  // Both sides of it; `beforeTelling` may write the target.
  Inquired hold(const Bytes& old, const Bytes& content, bool exact = false,
                const std::function<void(File&)>& beforeTelling = {}, bool rolling = true) {
    writeSparseTestFile(directory.path("old"), old);
    writeSparseTestFile(directory.path("new"), content);
    File file = openTestFile(directory.path("new"));
    auto target = PageFile::open(file);
    DH_REQUIRE_OK(target);
    std::vector<File> files;
    files.push_back(openTestFile(directory.path("old")));
    auto basis = Basis::make(std::move(files), 512);
    DH_REQUIRE_OK(basis);
    const Key key{1, 2, 3};
    PageSums sums(basis.value(), key);
    PageInquiry::Buffers buffers;
    PageInquiry inquiry(std::move(target).value(), old.size(), {exact, rolling}, key, buffers);
    const auto onProgress = [](uint64_t) { return true; };
    Inquired result;
    Rebuilt rebuilt(old);
    SumQuery query{kSumSegmentShift, kMaxSumBytes, {{0, (old.size() + kSumSegmentBytes - 1) / kSumSegmentBytes}}};
    for (bool more = true; more;) {
      Bytes answer;
      for (const BlockRun& run : query.runs) {
        DH_REQUIRE_OK(sums.append(answer, query.blockShift, query.sumBytes, run, query.isRolling));
      }
      result.sumBytes += answer.size();
      // In pieces of any length.
      const size_t half = answer.size() / 2;
      DH_REQUIRE_OK(inquiry.takeSums(ByteSpan(answer).first(half), onProgress));
      DH_REQUIRE_OK(inquiry.takeSums(ByteSpan(answer).subspan(half), onProgress));
      auto next = inquiry.takeQuery();
      if (!next.has_value()) {
        if (beforeTelling) beforeTelling(file);
        DH_REQUIRE_OK(inquiry.tell(rebuilt, onProgress));
        next = inquiry.takeQuery();
      }
      more = next.has_value();
      if (!more) break;
      SumQuery read{next->blockShift, next->sumBytes, {}, next->isRolling};
      DH_REQUIRE_OK(decodeRuns(encodeRuns(*next), old.size(), next->blocks(), read));
      query = std::move(read);
    }
    REQUIRE(inquiry.allTold());
    CHECK(inquiry.takeSums(Bytes(1), onProgress).error().code == Code::kProtocol);
    result.rebuilt = std::move(rebuilt.bytes);
    result.literalBytes = rebuilt.literalBytes;
    result.digest = inquiry.digest();
    return result;
  }

  TestDirectory directory;
};

void changeWord(Bytes& content, size_t page, size_t word, uint64_t value) {
  std::memcpy(content.data() + page * kPageBytes + 8 * word, &value, 8);
}

TEST_CASE_FIXTURE(Conversation, "what is where it was costs eight bytes for 256 KiB") {
  TestRandom random(41);
  Bytes content = random.bytes(5 << 20);
  std::fill_n(content.begin() + (2 << 20), 1 << 20, uint8_t{0});
  const Inquired same = hold(content, content);
  CHECK(same.rebuilt == content);
  CHECK(same.digest == contentDigest(content));
  CHECK(same.literalBytes == 0);
  CHECK(same.sumBytes == 20 * 8);
}

TEST_CASE_FIXTURE(Conversation, "a changed word costs the 64 bytes around it") {
  TestRandom random(42);
  const Bytes old = random.bytes(4 << 20);
  Bytes content = old;
  for (size_t page = 3; page < 1024; page += 50) changeWord(content, page, page % 512, random.next());
  const Inquired found = hold(old, content);
  CHECK(found.rebuilt == content);
  CHECK(found.digest == contentDigest(content));
  CHECK(found.literalBytes == 21 * 64);
  CHECK(found.sumBytes < 16 * 8 + 1024 * 5 + 21 * 32 + 1);
}

TEST_CASE_FIXTURE(Conversation, "pages that moved are found, and so are their changed neighbours") {
  TestRandom random(43);
  const Bytes old = random.bytes(6 << 20);
  Bytes content = old;
  const Bytes inserted = random.bytes(3 * kPageBytes);
  content.insert(content.begin() + 100 * kPageBytes, inserted.begin(), inserted.end());
  content.erase(content.begin() + 700 * kPageBytes, content.begin() + 705 * kPageBytes);
  for (size_t page = 250; page < 1400; page += 100) changeWord(content, page, 9, random.next());
  const Inquired found = hold(old, content);
  CHECK(found.rebuilt == content);
  CHECK(found.literalBytes == inserted.size() + 12 * 64);
}

TEST_CASE_FIXTURE(Conversation, "pages that moved and all changed are found by a part of them") {
  TestRandom random(47);
  const Bytes old = random.bytes(4 << 20);
  Bytes content = old;
  for (size_t page = 0; page < 1024; ++page) changeWord(content, page, 9, random.next());
  const Bytes inserted = random.bytes(3 * kPageBytes);
  content.insert(content.begin(), inserted.begin(), inserted.end());
  const Inquired found = hold(old, content);
  CHECK(found.rebuilt == content);
  CHECK(found.literalBytes == inserted.size() + 1024 * 64);
  CHECK(found.sumBytes < 16 * 8 + 1024 * (5 + 4 + 24 + 24) + 1000);
}

TEST_CASE_FIXTURE(Conversation, "pages of which there are many do not say from where their neighbours moved") {
  TestRandom random(48);
  const Bytes alike = random.bytes(kPageBytes);
  const Bytes first = random.bytes(kPageBytes);
  const auto image = [&](size_t inFront) {
    TestRandom same(49);
    Bytes bytes = first;
    for (size_t i = 0; i < inFront; ++i) bytes.insert(bytes.end(), alike.begin(), alike.end());
    for (size_t page = 0; page < 600; ++page) {
      const Bytes own = same.bytes(kPageBytes);
      bytes.insert(bytes.end(), own.begin(), own.end());
      bytes.insert(bytes.end(), alike.begin(), alike.end());
    }
    return bytes;
  };
  const Bytes old = image(1);
  Bytes content = image(6);
  for (size_t page = 0; page < 600; ++page) changeWord(content, 7 + 2 * page, 9, random.next());
  const Inquired found = hold(old, content);
  CHECK(found.rebuilt == content);
  CHECK(found.literalBytes == 600 * 64);
}

TEST_CASE_FIXTURE(Conversation, "what was copied to other places is found at any offset") {
  TestRandom random(50);
  const Bytes old = random.bytes(6 << 20);
  Bytes content = old;
  for (size_t page = 0; page < 800; ++page) changeWord(content, page, 9, random.next());
  // As a journal has the pages as they were: each in pieces, each piece behind a head of its own.
  for (size_t page = 0; page < 800; ++page) {
    for (size_t at = 0; at < kPageBytes; at += kPageBytes / 4) {
      const Bytes head = random.bytes(21);
      content.insert(content.end(), head.begin(), head.end());
      const auto piece = old.begin() + static_cast<ptrdiff_t>(page * kPageBytes + at);
      content.insert(content.end(), piece, piece + kPageBytes / 4);
    }
  }
  const Inquired found = hold(old, content);
  CHECK(found.rebuilt == content);
  CHECK(found.digest == contentDigest(content));
  const uint64_t copied = content.size() - old.size();
  CHECK(found.literalBytes < copied / 8 + 800 * 64);
  const Inquired without = hold(old, content, false, {}, false);
  CHECK(without.rebuilt == content);
  CHECK(without.literalBytes >= copied);
  CHECK(found.sumBytes < without.sumBytes + 928 * 16 * 6);
}

TEST_CASE_FIXTURE(Conversation, "what was searched at all offsets and is written meanwhile is told as it is") {
  TestRandom random(51);
  const Bytes old = random.bytes(4 << 20);
  Bytes content = old;
  for (size_t page = 0; page < 800; ++page) changeWord(content, page, 9, random.next());
  content.push_back(7);
  content.insert(content.end(), old.begin(), old.begin() + 800 * kPageBytes);
  const Bytes late = random.bytes(1 << 20);
  int times = 0;
  const Inquired found = hold(old, content, false, [&](File& file) {
    if (times++ == 0) DH_REQUIRE_OK(file.writeAt(old.size() + 100'000, late));
  });
  CHECK(found.digest == contentDigest(found.rebuilt));
  CHECK(found.rebuilt.size() == content.size());
  CHECK(found.literalBytes < (1 << 20) + 300'000);
}

TEST_CASE_FIXTURE(Conversation, "nothing alike is not asked about for long") {
  TestRandom random(44);
  const Bytes old = random.bytes(32 << 20);
  const Bytes content = random.bytes(32 << 20);
  const Inquired found = hold(old, content);
  CHECK(found.literalBytes > (31 << 20));
  // Sums of pages, and of parts of no more than a sample.
  CHECK(found.sumBytes < 8192 * (5 + 4) + 128 * 8 + 129 * 16 * 6 + (32 << 20) / 200);
}

TEST_CASE_FIXTURE(Conversation, "of a large basis a sample is asked about first, and the rest if that pays") {
  TestRandom random(48);
  const Bytes old = random.bytes(136 << 20);
  constexpr size_t kPages = (136 << 20) / kPageBytes;
  constexpr size_t kTargetPages = kPages / 4;
  Bytes content(old.begin(), old.begin() + kTargetPages * kPageBytes);
  SUBCASE("nothing alike") {
    content = random.bytes(content.size());
    const Inquired found = hold(old, content);
    CHECK(found.rebuilt == content);
    CHECK(found.literalBytes == content.size());
    // The segments, one page of each, and an eighth of that.
    CHECK(found.sumBytes == kPages / 64 * (8 + 4 + 4));
  }
  SUBCASE("all pages moved") {
    const Bytes inserted = random.bytes(kPageBytes);
    content.insert(content.begin(), inserted.begin(), inserted.end());
    const Inquired found = hold(old, content);
    CHECK(found.rebuilt == content);
    CHECK(found.literalBytes == inserted.size());
    CHECK(found.sumBytes < kPages / 64 * (8 + 4 + 4) + kPages * 6);
  }
  SUBCASE("no page is the same, and most of each is") {
    for (size_t page = 0; page < kTargetPages; ++page) changeWord(content, page, 9, random.next());
    const Inquired found = hold(old, content);
    CHECK(found.rebuilt == content);
    CHECK(found.literalBytes == kTargetPages * 64);
  }
}

TEST_CASE_FIXTURE(Conversation, "any two files, and any length") {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    CAPTURE(seed);
    TestRandom random(seed);
    Bytes old = random.bytes(1 + random.below(3 << 20));
    Bytes content = old;
    for (int i = 0; i < 30; ++i) {
      const uint64_t at = random.below(content.size());
      const size_t length = std::min<size_t>(random.below(40'000), content.size() - at);
      const auto begin = content.begin() + static_cast<ptrdiff_t>(at);
      switch (random.below(6)) {
        case 0:
          std::fill_n(begin, length, uint8_t{0});
          break;
        case 1: {
          const Bytes more = random.bytes(length / kPageBytes * kPageBytes);
          content.insert(begin, more.begin(), more.end());
          break;
        }
        case 2:
          content.erase(begin, begin + static_cast<ptrdiff_t>(length / 2));
          if (content.empty()) content.push_back(1);
          break;
        case 3:
          *begin ^= 1;
          break;
        default: {
          const uint64_t from = random.below(old.size());
          const size_t count = std::min<size_t>({length, old.size() - from, content.size() - at});
          std::copy_n(old.begin() + static_cast<ptrdiff_t>(from), count, begin);
        }
      }
    }
    for (const bool exact : {false, true}) {
      const Inquired found = hold(old, content, exact);
      CHECK(found.digest == contentDigest(content));
      // Of sums of two bytes one may deceive.
      CHECK(found.rebuilt.size() == content.size());
      if (exact) CHECK(found.rebuilt == content);
    }
  }
}

TEST_CASE_FIXTURE(Conversation, "a result that was wrong in one place is repaired by that page") {
  TestRandom random(45);
  const Bytes right = random.bytes(3'000'000);
  Bytes wrong = right;
  wrong[2'000'000] ^= 1;
  const Inquired repaired = hold(wrong, right, true);
  CHECK(repaired.rebuilt == right);
  CHECK(repaired.literalBytes == kPageBytes);
  CHECK(repaired.sumBytes == 12 * 8 + 64 * 8);
}

TEST_CASE_FIXTURE(Conversation, "a target that is written meanwhile: its digest is that of what was told") {
  TestRandom random(46);
  const Bytes old = random.bytes(3 << 20);
  Bytes content = old;
  for (size_t page = 0; page < 768; page += 5) changeWord(content, page, 77, random.next());
  const Bytes late = random.bytes(2 << 20);
  int times = 0;
  const Inquired found = hold(old, content, false, [&](File& file) {
    // Once, when everything is known and nothing told.
    if (times++ == 0) DH_REQUIRE_OK(file.writeAt(700'000, late));
  });
  CHECK(times > 0);
  CHECK(found.digest == contentDigest(found.rebuilt));
  CHECK(found.rebuilt.size() == content.size());
}

}  // namespace
}  // namespace deltahop
