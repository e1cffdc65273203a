// A job: one piece of engine work on threads of its own. Bytes in, bytes out, never a socket (librsync's idea); the
// files it needs it opens itself.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace deltahop {

/// One figure of a job's statistics; the names are those of the TypeScript face (`literalBytes`, `matchedBytes`...).
struct Statistic {
  std::string name;
  double value = 0;
};

/// What a job says while it runs (about 10 times a second at the most) and when it ends.
struct Progress {
  uint64_t doneBytes = 0;   // bytes of the target tree or file settled so far, by whichever step
  uint64_t totalBytes = 0;  // 0 while not known
  uint64_t doneFiles = 0;
  uint64_t totalFiles = 0;
};

/// How a job ended well.
struct JobReport {
  std::vector<Statistic> statistics;
  std::vector<std::string> notes;  // things left out on purpose (a socket, an owner without root); bounded in number
  std::string text;                // the job's answer where it has one (a digest)
};

/// Told of a job's events on one of the job's threads; must not block and must not call back into the job except by
/// scheduling it elsewhere.
class JobListener {
 public:
  virtual ~JobListener() = default;
  /// readOutput() has something to give.
  virtual void onOutput() = 0;
  /// writeInput() will take more, after it had returned false.
  virtual void onDrain() = 0;
  virtual void onProgress(const Progress& progress) = 0;
  /// Last event of all, exactly once, after which all output can still be read.
  virtual void onFinished(Result<JobReport> outcome) = 0;
};

class Job {
 public:
  /// Cancels and waits for the job's threads.
  virtual ~Job() = default;
  /// Starts the threads. Call once; `listener` must outlive the job.
  virtual void start(JobListener& listener) = 0;
  /// Hands input over. False: taken all the same, but wait for onDrain() before the next (the queue is bounded).
  virtual bool writeInput(Bytes buffer) = 0;
  /// No more input will come. A job that still needs some ends with kTruncated.
  virtual void endInput() = 0;
  /// The next piece of output (at most 1 MiB), empty if there is none now. Reading makes room for more.
  virtual Bytes readOutput() = 0;
  /// True once all output was produced and read.
  virtual bool outputEnded() = 0;
  /// After onFinished(): input that the job was given and never looked at, piece by piece; empty when there is no more.
  /// On a stream that goes on after the job, these bytes belong to whoever reads next.
  virtual Bytes takeUnreadInput() { return {}; }
  /// Asks the job to end soon with kCancelled. What it keeps for a later continuation is flushed first.
  virtual void cancel() = 0;
};

}  // namespace deltahop
