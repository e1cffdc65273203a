#include "job/page_sender.h"

#include <algorithm>
#include <utility>

#include "wire/writer.h"

namespace deltahop {
namespace {

// What is asked about at once: enough to fill a link with a long way, and few enough open files.
constexpr size_t kMaxOpenFiles = 64;
constexpr uint64_t kMaxOpenBytes = 256 << 20;
constexpr uint64_t kMaxPagedBytes = uint64_t{1} << 40;
constexpr uint64_t kSummedAtOnceBytes = 16 << 20;
constexpr uint64_t kSegmentSumsPerByte = kSumSegmentBytes / kMaxSumBytes;

}  // namespace

Status PageSender::want(uint32_t index, uint64_t basisBytes, bool exact, std::optional<CommonBasis> common) {
  if (basisBytes == 0 || basisBytes > kMaxSummedBytes) return Error{Code::kProtocol, "pages of no basis", 0};
  Wanted*& known = byIndex_[index];
  if (known != nullptr) return Error{Code::kProtocol, "a file requested twice at once", 0};
  auto wanted = std::make_unique<Wanted>();
  wanted->index = index;
  wanted->basisBytes = basisBytes;
  wanted->exact = exact;
  wanted->common = std::move(common);
  known = wanted.get();
  wanted_.push_back(std::move(wanted));
  return {};
}

Status PageSender::takeSums(ByteSpan payload) {
  Reader reader(payload);
  DH_TRY(const uint64_t index, reader.varint(UINT32_MAX));
  DH_TRY(const ByteSpan sums, unpacker_.unpack(reader));
  const auto at = byIndex_.find(static_cast<uint32_t>(index));
  if (at == byIndex_.end()) return Error{Code::kProtocol, "sums of no request", 0};
  if (at->second == nullptr) return {};  // gone meanwhile
  Wanted& wanted = *at->second;
  if (wanted.common.has_value()) return Error{Code::kProtocol, "sums that nobody asked for", 0};
  if (wanted.inquiry != nullptr) return feed(wanted, sums);
  if (wanted.early.size() + sums.size() > wanted.basisBytes / kSegmentSumsPerByte + kMaxSumBytes) {
    return Error{Code::kProtocol, "sums that nobody asked for", 0};
  }
  wanted.early.insert(wanted.early.end(), sums.begin(), sums.end());
  return {};
}

Status PageSender::advance() {
  for (;;) {
    DH_CHECK(open());
    if (wanted_.empty()) return {};
    for (size_t i = 0; i < openFiles_; ++i) DH_CHECK(ask(*wanted_[i]));
    if (openFiles_ == 0) continue;
    DH_TRY(const bool sent, send(*wanted_.front()));
    if (sent) continue;
    const bool isAnsweredHere = wanted_.front()->common.has_value();
    DH_CHECK(ask(*wanted_.front()));
    if (!isAnsweredHere) return {};
  }
}

// As many as may be asked about at once.
Status PageSender::open() {
  while (openFiles_ < wanted_.size() && openFiles_ < kMaxOpenFiles && (openFiles_ == 0 || openBytes_ < kMaxOpenBytes)) {
    Wanted& wanted = *wanted_[openFiles_];
    ++openFiles_;
    DH_CHECK(begin(wanted));
  }
  return {};
}

Status PageSender::begin(Wanted& wanted) {
  DH_TRY(wanted.source, files_.open(wanted.index));
  if (!wanted.source.file.isOpen()) {
    close(wanted);
    return {};
  }
  openBytes_ += wanted.source.bytes();
  auto target = PageFile::open(wanted.source.file);
  if (target.ok() && target.value().bytes() > kMaxPagedBytes) target = Error{Code::kChanged, "became too large", 0};
  if (!target.ok()) return fail(wanted, std::move(target).error());
  // The receiver answers questions in proportion to the file that it was told of.
  const PageInquiry::Ways how{.exact = wanted.exact || wanted.source.bytes() > around_.tree.fileBytes(wanted.index),
                              .rolling = files_.mayAskForRollingSums(),
                              .here = wanted.common.has_value()};
  wanted.inquiry = std::make_unique<PageInquiry>(std::move(target).value(), wanted.basisBytes, how, key_, buffers_);
  if (wanted.common.has_value()) {
    // One that is another by now helps with nothing.
    auto basis = wanted.common->open();
    if (basis.ok() && basis.value().size() == wanted.basisBytes) wanted.basis = std::move(basis).value();
    SumQuery all{kSumSegmentShift, kMaxSumBytes, {}};
    all.add(0, (wanted.basisBytes + kSumSegmentBytes - 1) / kSumSegmentBytes);
    return answerHere(wanted, all);
  }
  const Bytes early = std::exchange(wanted.early, {});
  return feed(wanted, early);
}

Status PageSender::feed(Wanted& wanted, ByteSpan sums) {
  Status taken = wanted.inquiry->takeSums(sums, [&](uint64_t) { return !around_.cancelled(); });
  if (taken.ok()) return {};
  if (taken.error().code == Code::kProtocol) return taken;
  return fail(wanted, std::move(taken).error());
}

Status PageSender::ask(Wanted& wanted) {
  const uint32_t index = wanted.index;
  while (auto query = wanted.inquiry->takeQuery()) {
    if (wanted.common.has_value()) {
      DH_CHECK(answerHere(wanted, *query));
      if (isOver(index)) return {};
      continue;
    }
    Bytes payload;
    Writer writer(payload);
    writer.varint(wanted.index);
    writer.u8(static_cast<uint8_t>(query->blockShift));
    writer.u8(static_cast<uint8_t>(query->sumBytes | (query->isRolling ? kRollingSums : 0)));
    DH_CHECK(packer_.pack(payload, encodeRuns(*query)));
    DH_CHECK(around_.out.send(Message::kSumsWanted, payload));
  }
  return {};
}

// As the receiver would, which holds the same: what cannot be read has sums that fit nothing. The file may be over
// then.
Status PageSender::answerHere(Wanted& wanted, const SumQuery& query) {
  const uint32_t index = wanted.index;
  const uint64_t atOnce = kSummedAtOnceBytes >> query.blockShift;
  PageSums sums(wanted.basis, key_);
  Bytes made;
  for (const BlockRun& run : query.runs) {
    for (uint64_t done = 0; done < run.count;) {
      const BlockRun part{run.first + done, std::min(run.count - done, atOnce)};
      if (around_.cancelled()) return Error{Code::kCancelled, "look at common files", 0};
      made.clear();
      if (!sums.append(made, query.blockShift, query.sumBytes, part, query.isRolling).ok()) made.clear();
      made.resize(part.count * query.sumBytes);
      done += part.count;
      DH_CHECK(feed(wanted, made));
      if (isOver(index)) return {};
      // Next to nothing, but a rise: else the peer takes it for one that stands still.
      const bool isSent = wanted.encoder.has_value();
      if (!isSent) around_.advance(files_.doneBytes() + ++wanted.answeredHere, files_.doneFiles());
    }
  }
  return {};
}

// What is known of the first file; true if that was the end of it.
Result<bool> PageSender::send(Wanted& wanted) {
  if (!wanted.encoder.has_value()) {
    DH_CHECK(files_.flush());
    wanted.encoder.emplace(files_.blocksOf(wanted.index), around_.options.zstdLevel, files_.stream());
  }
  Status told = wanted.inquiry->tell(*wanted.encoder, [&](uint64_t done) {
    around_.advance(files_.doneBytes() + done, files_.doneFiles());
    return !around_.cancelled();
  });
  if (told.ok() && !wanted.inquiry->allTold()) return false;
  if (told.ok()) told = wanted.encoder->finish();
  if (told.ok()) {
    DH_CHECK(finish(wanted));
  } else {
    DH_CHECK(fail(wanted, std::move(told).error()));
  }
  return true;
}

Status PageSender::finish(Wanted& wanted) {
  const InquiryStatistics& figures = wanted.inquiry->statistics();
  files_.addMatched(wanted.index, figures.readBytes, figures.matchedBytes, figures.zeroBytes,
                    wanted.encoder->statistics());
  DH_CHECK(files_.checkUnchanged(wanted.index, wanted.source));
  DH_CHECK(files_.sendEnd(wanted.index, wanted.source.changed, wanted.inquiry->bytes(), wanted.inquiry->digest()));
  close(wanted);
  return {};
}

Status PageSender::fail(Wanted& wanted, Error error) {
  DH_CHECK(files_.sendFailure(wanted.index, std::move(error)));
  close(wanted);
  return {};
}

// It is over.
void PageSender::close(const Wanted& wanted) {
  if (wanted.source.file.isOpen()) openBytes_ -= wanted.source.bytes();
  --openFiles_;
  byIndex_[wanted.index] = nullptr;
  std::erase_if(wanted_, [&](const auto& other) { return other.get() == &wanted; });
}

}  // namespace deltahop
