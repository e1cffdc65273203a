// Which files were asked for page by page, and what the sender wants to know of their bases.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "job/request_book.h"
#include "job/transfer_message.h"
#include "signature/page_sums.h"

namespace deltahop {

/// Between the thread that requests files and answers questions, and the one that applies what arrives and never waits.
class PageRequests {
 public:
  struct Question {
    uint32_t index = 0;
    SumQuery query;
  };

  /// A file is about to be requested from this basis.
  void add(uint32_t index, BasisChoice choice, uint64_t basisBytes, uint64_t targetBytes);
  /// Takes the payload of a kSumsWanted. What asks for more than any honest question could is refused.
  Status ask(ByteSpan payload);
  /// The next question, if there is one; with `wait`, nothing means that no more will come.
  std::optional<Question> next(bool wait);
  bool hasQuestion();
  /// No more questions will come.
  void close();
  /// What the file was requested from. Only for the thread that called add().
  BasisChoice& choiceOf(uint32_t index) { return files_.at(index).choice; }

 private:
  struct Requested {
    BasisChoice choice;
    uint64_t basisBytes = 0;
    uint64_t budgetBytes = 0;  // of the basis, that may yet be read for sums
  };

  std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_map<uint32_t, Requested> files_;
  std::deque<Bytes> waiting_;  // payloads, which are shorter than what they say
  size_t waitingBytes_ = 0;
  bool closed_ = false;
  Unpacker unpackers_[2];  // one for each thread
};

}  // namespace deltahop
