// What the engine's tests share: fixed randomness, a temporary directory, files as bytes, a job driven to its end.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "io/file.h"
#include "job/job.h"

namespace deltahop {

/// Fails the test with the error's words.
#define DH_REQUIRE_OK(expression)                                                          \
  do {                                                                                     \
    const auto& dhOutcome = (expression);                                                  \
    if (!dhOutcome.ok()) {                                                                 \
      FAIL(dhOutcome.error().context, " code ", static_cast<int>(dhOutcome.error().code)); \
    }                                                                                      \
  } while (false)

/// Small, fast, and the same on every machine (xorshift64*).
class TestRandom {
 public:
  explicit TestRandom(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15 + 1) {}
  uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1D;
  }
  uint64_t below(uint64_t bound) { return bound == 0 ? 0 : next() % bound; }
  Bytes bytes(size_t length) {
    Bytes made(length);
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
      const uint64_t word = next();
      for (size_t j = 0; j < 8; ++j) made[i + j] = static_cast<uint8_t>(word >> (8 * j));
    }
    for (; i < length; ++i) made[i] = static_cast<uint8_t>(next() >> 32);
    return made;
  }

 private:
  uint64_t state_;
};

/// A directory that goes away with the test.
class TestDirectory {
 public:
  TestDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "deltahop-test-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TestDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string path(const std::string& name) const { return (path_ / name).string(); }
  size_t entryCount() const {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(path_)) ++count;
    return count;
  }

 private:
  std::filesystem::path path_;
};

inline File openTestFile(const std::string& path) {
  auto file = File::open(AT_FDCWD, path, O_RDWR | O_CREAT, 0600);
  DH_REQUIRE_OK(file);
  return std::move(file).value();
}

inline void writeTestFile(const std::string& path, ByteSpan content) {
  File file = openTestFile(path);
  DH_REQUIRE_OK(file.truncate(0));
  DH_REQUIRE_OK(file.writeAt(0, content));
}

/// The same content with every page of zeros as a hole.
inline void writeSparseTestFile(const std::string& path, ByteSpan content) {
  File file = openTestFile(path);
  DH_REQUIRE_OK(file.truncate(0));
  DH_REQUIRE_OK(file.truncate(content.size()));
  for (size_t at = 0; at < content.size(); at += 4096) {
    const ByteSpan page = content.subspan(at, std::min<size_t>(4096, content.size() - at));
    if (!isZero(page)) DH_REQUIRE_OK(file.writeAt(at, page));
  }
}

inline Bytes readTestFile(const std::string& path) {
  const auto file = File::open(AT_FDCWD, path, O_RDONLY);
  DH_REQUIRE_OK(file);
  const auto size = file.value().size();
  DH_REQUIRE_OK(size);
  Bytes content(size.value());
  const auto got = file.value().readAt(0, content);
  DH_REQUIRE_OK(got);
  REQUIRE(got.value() == content.size());
  return content;
}

/// Runs a job to its end, feeding `input` in pieces of `splitBytes` and collecting the output.
struct JobRun : public JobListener {
  JobRun(Job& job, ByteSpan input, size_t splitBytes = 65536) {
    job.start(*this);
    while (!input.empty()) {
      const size_t taken = std::min(splitBytes, input.size());
      bool more = job.writeInput(Bytes(input.begin(), input.begin() + static_cast<ptrdiff_t>(taken)));
      input = input.subspan(taken);
      collect(job);
      while (!more) {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return drained || hasOutput || outcome.has_value(); });
        if (drained || outcome.has_value()) more = true;
        drained = false;
        lock.unlock();
        collect(job);
      }
    }
    job.endInput();
    for (;;) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return hasOutput || outcome.has_value(); });
      }
      collect(job);
      const std::lock_guard lock(mutex);
      if (outcome.has_value() && job.outputEnded()) break;
    }
  }

  double statistic(const std::string& name) const {
    for (const Statistic& entry : outcome->value().statistics) {
      if (entry.name == name) return entry.value;
    }
    FAIL("no statistic ", name);
    return -1;
  }

  void onOutput() override {
    const std::lock_guard lock(mutex);
    hasOutput = true;
    changed.notify_all();
  }
  void onDrain() override {
    const std::lock_guard lock(mutex);
    drained = true;
    changed.notify_all();
  }
  void onProgress(const Progress& progress) override {
    const std::lock_guard lock(mutex);
    lastProgress = progress;
  }
  void onFinished(Result<JobReport> finished) override {
    const std::lock_guard lock(mutex);
    REQUIRE(!outcome.has_value());
    outcome.emplace(std::move(finished));
    changed.notify_all();
  }

  Bytes output;
  std::optional<Result<JobReport>> outcome;
  Progress lastProgress;

 private:
  void collect(Job& job) {
    {
      const std::lock_guard lock(mutex);
      hasOutput = false;
    }
    for (;;) {
      const Bytes piece = job.readOutput();
      if (piece.empty()) return;
      REQUIRE(piece.size() <= (1 << 20));
      output.insert(output.end(), piece.begin(), piece.end());
    }
  }

  std::mutex mutex;
  std::condition_variable changed;
  bool hasOutput = false;
  bool drained = false;
};

}  // namespace deltahop
