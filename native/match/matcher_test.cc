// How much work the matcher does and what it may miss for it; that its instructions make the target is tested in
// job/delta_round_trip_test.cc.
#include "match/matcher.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "base/test_support.h"

namespace deltahop {
namespace {

constexpr Key kKey = {5, 6, 7};
constexpr uint32_t kBlockBytes = 4096;

Signature signatureOf(const Bytes& basis, uint32_t blockBytes = kBlockBytes) {
  SignatureWriter writer(blockBytes, kKey, false);
  DH_REQUIRE_OK(writer.addBlocks(0, basis));
  const uint64_t fileBytes[] = {basis.size()};
  writer.finish(fileBytes);
  SignatureParser parser(kKey);
  DH_REQUIRE_OK(parser.feed(writer.take()));
  auto signature = parser.finish();
  DH_REQUIRE_OK(signature);
  return std::move(signature).value();
}

/// Holds every instruction against the target.
class CheckingSink : public DeltaSink {
 public:
  CheckingSink(const Bytes& basis, const Bytes& target) : basis_(basis), target_(target) {}
  Status copy(uint64_t basisOffset, uint64_t length) override {
    REQUIRE(basisOffset + length <= basis_.size());
    expect(ByteSpan(basis_).subspan(basisOffset, length));
    return {};
  }
  Status literal(ByteSpan data) override {
    expect(data);
    return {};
  }
  Status zeros(uint64_t length) override {
    expect(Bytes(length));
    return {};
  }
  uint64_t at = 0;

 private:
  void expect(ByteSpan data) {
    REQUIRE(at + data.size() <= target_.size());
    REQUIRE(std::equal(data.begin(), data.end(), target_.begin() + static_cast<ptrdiff_t>(at)));
    at += data.size();
  }
  const Bytes& basis_;
  const Bytes& target_;
};

MatchStatistics match(const Bytes& basis, const Bytes& target, uint32_t blockBytes = kBlockBytes) {
  const Signature signature = signatureOf(basis, blockBytes);
  const SignatureIndex index(signature);
  CheckingSink sink(basis, target);
  Matcher matcher(index, sink);
  DH_REQUIRE_OK(matcher.feed(target));
  DH_REQUIRE_OK(matcher.finish());
  CHECK(sink.at == target.size());
  return matcher.statistics();
}

/// The same while the signature is still being read, by so many bytes at a time. `early` is what was taken of the
/// target before all of it was known.
MatchStatistics matchGrowing(const Bytes& basis, const Bytes& target, size_t pieceBytes, size_t& early) {
  SignatureWriter writer(kBlockBytes, kKey, false);
  const size_t partBytes = 16 * kBlockBytes;
  Bytes stream;
  for (size_t at = 0; at < basis.size(); at += partBytes) {
    DH_REQUIRE_OK(
        writer.addBlocks(at / kBlockBytes, ByteSpan(basis).subspan(at, std::min(partBytes, basis.size() - at))));
    writer.cut();
  }
  const uint64_t fileBytes[] = {basis.size()};
  writer.finish(fileBytes);
  stream = writer.take();
  SignatureParser parser(kKey);
  std::optional<SignatureIndex> index;
  std::optional<Matcher> matcher;
  CheckingSink sink(basis, target);
  size_t fed = 0;
  const auto feed = [&]() {
    while (fed < target.size() && !matcher->isStalled()) {
      const size_t count = std::min({matcher->room().size(), target.size() - fed, size_t{100'000}});
      REQUIRE(count > 0);
      std::copy_n(target.begin() + static_cast<ptrdiff_t>(fed), count, matcher->room().begin());
      DH_REQUIRE_OK(matcher->advance(count));
      fed += count;
    }
  };
  for (size_t at = 0; at < stream.size(); at += pieceBytes) {
    DH_REQUIRE_OK(parser.feed(ByteSpan(stream).subspan(at, std::min(pieceBytes, stream.size() - at))));
    if (parser.ended()) break;
    if (!index.has_value()) {
      if (parser.signature().blocks.size() < 2) continue;
      index.emplace(parser.signature(), false);
      matcher.emplace(*index, sink);
    } else {
      index->update(false);
      DH_REQUIRE_OK(matcher->resume());
    }
    feed();
  }
  REQUIRE(parser.ended());
  REQUIRE(index.has_value());
  early = sink.at;
  index->update(true);
  DH_REQUIRE_OK(matcher->resume());
  feed();
  REQUIRE(fed == target.size());
  DH_REQUIRE_OK(matcher->finish());
  CHECK(sink.at == target.size());
  return matcher->statistics();
}

void append(Bytes& to, ByteSpan bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

TEST_CASE("matcher: where nothing matches, few offsets are looked at") {
  TestRandom random(1);
  const Bytes basis = random.bytes(4 << 20);
  const Bytes target = random.bytes(64 << 20);
  const MatchStatistics statistics = match(basis, target);
  CHECK(statistics.matchedBytes == 0);
  // One in eight, and before that the first MiB wholly, the second by half, the next two by a quarter.
  CHECK(statistics.probedOffsets < target.size() / 8 + (3 << 20));
  CHECK(statistics.probedOffsets > target.size() / 8);
}

TEST_CASE("matcher: one byte or a large part inserted costs no more than itself and a block") {
  TestRandom random(2);
  const Bytes basis = random.bytes(24 << 20);
  for (const size_t inserted : {size_t{1}, size_t{5000}, size_t{3} << 20, (size_t{17} << 20) + 1}) {
    CAPTURE(inserted);
    for (const size_t at : {size_t{0}, size_t{1} << 20, (size_t{9} << 20) + 4095}) {
      CAPTURE(at);
      Bytes target(basis.begin(), basis.begin() + static_cast<ptrdiff_t>(at));
      append(target, random.bytes(inserted));
      append(target, ByteSpan(basis).subspan(at));
      const MatchStatistics statistics = match(basis, target);
      // The block that was cut in two is no block any more.
      CHECK(statistics.literalBytes <= inserted + kBlockBytes);
    }
  }
}

TEST_CASE("matcher: far from all matches, every run of nine blocks is found whole") {
  TestRandom random(3);
  const Bytes basis = random.bytes(16 << 20);
  Bytes target;
  uint64_t most = 0;
  for (int run = 0; run < 6; ++run) {
    const Bytes fresh = random.bytes((9 << 20) + random.below(100000));
    append(target, fresh);
    const size_t from = random.below(300) * kBlockBytes + (static_cast<size_t>(run) << 21);
    append(target, ByteSpan(basis).subspan(from, 9 * kBlockBytes));
    most += fresh.size();
  }
  const MatchStatistics statistics = match(basis, target);
  CHECK(statistics.literalBytes == most);
}

// A word and its complement in which each half is the complement of the other, and so on down to letters (Thue and
// Morse): their sums are equal for every base of the polynomial, as 2 + 3 + ... + 8 factors of two divide the
// difference.
Bytes equalSumWord(bool complement) {
  Bytes word(128);
  for (size_t i = 0; i < word.size(); ++i) word[i] = (__builtin_popcountll(i) % 2 == 1) != complement ? 'a' : 'b';
  return word;
}

TEST_CASE("matcher: blocks crafted to have one and the same weak sum cost no more than a hash of the target") {
  const Bytes words[2] = {equalSumWord(false), equalSumWord(true)};
  TestRandom random(4);
  const auto makeContent = [&](size_t count) {
    Bytes content;
    while (count-- > 0) append(content, words[random.below(2)]);
    return content;
  };
  const Bytes basis = makeContent(32 * 256);
  const Bytes target = makeContent(32 * 1024);
  const Signature signature = signatureOf(basis);
  REQUIRE(std::all_of(signature.weak.begin(), signature.weak.end(),
                      [&](uint32_t weak) { return weak == signature.weak.front(); }));
  const MatchStatistics statistics = match(basis, target);
  CHECK(statistics.falseMatches > 64);
  CHECK(statistics.falseMatches * kBlockBytes <= statistics.probedOffsets + 64 * kBlockBytes);
  CHECK(statistics.triedWindows * 8 <= statistics.probedOffsets + 64 * kBlockBytes);
}

TEST_CASE("matcher: content of low entropy is tried no more often than the filters of ordinary content let pass") {
  TestRandom random(5);
  for (const uint64_t letters : {1, 2, 4}) {
    CAPTURE(letters);
    Bytes basis(4 << 20);
    for (uint8_t& byte : basis) byte = static_cast<uint8_t>('a' + random.below(letters));
    Bytes target(8 << 20);
    for (uint8_t& byte : target) byte = static_cast<uint8_t>('a' + random.below(letters));
    const MatchStatistics statistics = match(basis, target);
    CHECK(statistics.falseMatches * kBlockBytes <= statistics.probedOffsets + 64 * kBlockBytes);
    CHECK(statistics.triedWindows <= target.size() / 256);
  }
}

TEST_CASE("matcher: what can be told from a part of the signature is told at once, and nothing else") {
  TestRandom random(6);
  Bytes basis = random.bytes((12 << 20) + 777);
  std::fill_n(basis.begin() + (7 << 20), 300'000, uint8_t{0});
  const auto part = [&](size_t from, size_t bytes) { return ByteSpan(basis).subspan(from, bytes); };
  const size_t rest = basis.size() - (5 << 20);
  struct Case {
    const char* name;
    Bytes target;
    size_t least;  // known early
  };
  std::vector<Case> cases;
  const auto add = [&](const char* name, size_t least) -> Bytes& {
    return cases.emplace_back(Case{name, {}, least}).target;
  };
  // The zeros wait until all is known.
  append(add("unchanged", (7 << 20) - (2 << 20)), basis);
  Bytes& inserted = add("a byte in front", (7 << 20) - (2 << 20));
  append(inserted, Bytes(1, 9));
  append(inserted, basis);
  append(add("cut at the front", 1 << 20), part(5 << 20, rest));
  Bytes& moved = add("the end in front", 0);
  append(moved, part(10 << 20, 2 << 20));
  append(moved, part(0, 10 << 20));
  Bytes& changed = add("changed within", 2 << 20);
  append(changed, part(0, 4 << 20));
  append(changed, random.bytes(10'000));
  append(changed, part((4 << 20) + 10'000, basis.size() - (4 << 20) - 10'000));
  Bytes& fewer = add("bytes cut out here and there", 4 << 20);
  for (size_t at = 0; at + 200'000 < basis.size(); at += 200'000) append(fewer, part(at, 199'990));
  Bytes& many = add("a byte here and there", 0);
  for (size_t at = 0; at < basis.size(); at += 200'000) {
    append(many, part(at, std::min<size_t>(200'000, basis.size() - at)));
    append(many, Bytes(1, 9));
  }
  append(add("nothing of it", 0), random.bytes(9 << 20));
  append(add("short", 0), part(0, 3000));
  for (const Case& one : cases) {
    CAPTURE(one.name);
    const MatchStatistics whole = match(basis, one.target);
    for (const size_t pieceBytes : {size_t{97}, size_t{5000}}) {
      CAPTURE(pieceBytes);
      size_t early = 0;
      const MatchStatistics grown = matchGrowing(basis, one.target, pieceBytes, early);
      CHECK(early >= one.least);
      CHECK(grown.literalBytes <= whole.literalBytes);
      CHECK(grown.zeroBytes == whole.zeroBytes);
    }
  }
}

}  // namespace
}  // namespace deltahop
