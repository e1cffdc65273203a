#include "job/level_chooser.h"

#include <algorithm>

namespace deltahop {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kEvery{50};
// After a pause, for want of anything to compress, what was seen before says nothing.
constexpr milliseconds kPause{500};
constexpr size_t kMuchBytes = 1 << 20;
constexpr size_t kLittleBytes = 128 << 10;
// A link that takes more than this a second leaves the processor better things to do.
constexpr double kFastBytesPerMs = 32e3;

// The levels between which it is worth choosing.
constexpr int kSteps[] = {3, 5, 6, 7, LevelChooser::kGreatest};

int above(int level) {
  const auto* step = std::upper_bound(std::begin(kSteps), std::end(kSteps), level);
  return step == std::end(kSteps) ? level : *step;
}

int below(int level) {
  const auto* step = std::lower_bound(std::begin(kSteps), std::end(kSteps), level);
  return step == std::begin(kSteps) ? level : *(step - 1);
}

}  // namespace

int LevelChooser::choose(uint64_t writtenBytes, size_t waitingBytes, Clock::time_point now) {
  const uint64_t taken = writtenBytes - waitingBytes;
  const auto passed = std::chrono::duration<double, std::milli>(now - lastTime_);
  if (begun_ && passed < kEvery) return level_;
  if (begun_ && passed < kPause) {
    const double bytesPerMs = static_cast<double>(taken - lastTaken_) / passed.count();
    if (waitingBytes >= kMuchBytes && lastWaiting_ >= kLittleBytes && bytesPerMs < kFastBytesPerMs) {
      level_ = std::max(level_, std::min(above(level_), greatest_));
    } else if (waitingBytes < kLittleBytes && level_ > least_) {
      level_ = std::max(below(level_), least_);
      greatest_ = level_;
    }
  }
  begun_ = true;
  lastTime_ = now;
  lastTaken_ = taken;
  lastWaiting_ = waitingBytes;
  return level_;
}

}  // namespace deltahop
