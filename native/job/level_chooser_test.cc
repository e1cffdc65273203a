#include "job/level_chooser.h"

#include <algorithm>

#include "base/test_support.h"

namespace deltahop {
namespace {

constexpr auto kPiece = std::chrono::milliseconds(60);

// A sender that compresses as fast as each level lets it, and a link that takes so much.
struct Sending {
  explicit Sending(int least) : chooser(least) {}
  void step(uint64_t compressedBytes, uint64_t linkBytes) {
    written += compressedBytes;
    waiting += compressedBytes;
    waiting -= std::min(waiting, linkBytes);
    now += kPiece;
    level = chooser.choose(written, static_cast<size_t>(waiting), now);
  }
  LevelChooser chooser;
  LevelChooser::Clock::time_point now{std::chrono::hours(1)};
  uint64_t written = 0;
  uint64_t waiting = 0;
  int level = 0;
};

TEST_CASE("a slow link is waited for with the greatest level") {
  Sending sending(3);
  for (int i = 0; i < 40; ++i) sending.step(300'000, 75'000);
  CHECK(sending.level == LevelChooser::kGreatest);
}

TEST_CASE("a fast link is not waited for") {
  Sending sending(3);
  for (int i = 0; i < 40; ++i) sending.step(8'000'000, 6'000'000);
  CHECK(sending.level == 3);
  Sending empty(1);
  for (int i = 0; i < 40; ++i) empty.step(300'000, 6'000'000);
  CHECK(empty.level == 1);
}

TEST_CASE("a level that lets the queue run empty is left, and not tried again") {
  Sending sending(3);
  for (int i = 0; i < 20; ++i) sending.step(sending.level > 6 ? 100'000 : 400'000, 200'000);
  int highest = 0;
  for (int i = 0; i < 200; ++i) {
    sending.step(sending.level > 6 ? 100'000 : 400'000, 200'000);
    if (i > 100) highest = std::max(highest, sending.level);
  }
  CHECK(highest == 6);
  CHECK(sending.level >= 5);
}

TEST_CASE("what was before a pause says nothing") {
  Sending sending(3);
  for (int i = 0; i < 40; ++i) sending.step(300'000, 75'000);
  sending.now += std::chrono::seconds(5);
  sending.waiting = 0;
  sending.step(1000, 0);
  CHECK(sending.level == LevelChooser::kGreatest);
}

}  // namespace
}  // namespace deltahop
