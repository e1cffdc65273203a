// How hard literals are compressed: as hard as keeps the link busy, never harder.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace deltahop {

/// Chooses a level of zstd by what waits for the link. One thread.
class LevelChooser {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr int kGreatest = 9;

  /// `least` where the processor is what one waits for.
  explicit LevelChooser(int least) : least_(least), level_(least) {}

  /// The level for what is compressed next. `writtenBytes`: handed over so far, `waitingBytes`: of them not taken yet.
  int choose(uint64_t writtenBytes, size_t waitingBytes, Clock::time_point now);

 private:
  const int least_;
  int level_;
  int greatest_ = kGreatest;  // falls where a level has turned out to be too slow
  bool begun_ = false;
  Clock::time_point lastTime_{};
  uint64_t lastTaken_ = 0;
  size_t lastWaiting_ = 0;
};

}  // namespace deltahop
