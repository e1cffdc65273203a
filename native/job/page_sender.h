// The sender's answers to requests by pages.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>

#include "codec/delta_encoder.h"
#include "job/common_files.h"
#include "job/file_sender.h"
#include "match/page_inquiry.h"

namespace deltahop {

/// Asks about several files at once, so that a tree of many does not cost a round trip each, and sends them one after
/// the other.
class PageSender {
 public:
  /// All must outlive the sender.
  PageSender(const FileSender::Surroundings& around, FileSender& files, const Key& key)
      : around_(around), files_(files), key_(key), packer_(around.options.zstdLevel) {}

  /// A file is wanted, of which the receiver has a basis. `exact`: after a result that was wrong. `common`: that basis,
  /// of which the sums are made here.
  Status want(uint32_t index, uint64_t basisBytes, bool exact, std::optional<CommonBasis> common);
  /// Takes the payload of a kSums.
  Status takeSums(ByteSpan payload);
  /// Sends what can be sent by now: questions, and files.
  Status advance();
  /// Everything that was wanted was sent.
  bool isIdle() const { return wanted_.empty(); }

 private:
  struct Wanted {
    uint32_t index = 0;
    uint64_t basisBytes = 0;
    bool exact = false;
    std::optional<CommonBasis> common;
    Basis basis;                // that, once it is its turn
    uint64_t answeredHere = 0;  // pieces of questions about it
    Bytes early;                // sums that came before it was its turn
    FileSender::Source source;
    std::unique_ptr<PageInquiry> inquiry;  // once it is its turn
    std::optional<DeltaEncoder> encoder;   // once it is being sent
  };

  Status open();
  Status begin(Wanted& wanted);
  Status feed(Wanted& wanted, ByteSpan sums);
  Status ask(Wanted& wanted);
  bool isOver(uint32_t index) const { return byIndex_.at(index) == nullptr; }
  Status answerHere(Wanted& wanted, const SumQuery& query);
  Result<bool> send(Wanted& wanted);
  Status finish(Wanted& wanted);
  Status fail(Wanted& wanted, Error error);
  void close(const Wanted& wanted);

  const FileSender::Surroundings& around_;
  FileSender& files_;
  const Key& key_;
  Packer packer_;
  Unpacker unpacker_;
  PageInquiry::Buffers buffers_;
  std::deque<std::unique_ptr<Wanted>> wanted_;     // in the order of the requests
  std::unordered_map<uint32_t, Wanted*> byIndex_;  // null: over
  size_t openFiles_ = 0;                           // the first of them
  uint64_t openBytes_ = 0;
};

}  // namespace deltahop
