#include "job/page_requests.h"

#include <utility>

#include "wire/reader.h"

namespace deltahop {
namespace {

// A sender asks about each page once at each size, of both files.
constexpr uint64_t kMostTimes = 4;
constexpr size_t kMaxWaitingBytes = 16 << 20;

struct Header {
  uint64_t index = 0;
  unsigned blockShift = 0;
  unsigned sumBytes = 0;
  bool isRolling = false;

  SumQuery query() const { return {blockShift, sumBytes, {}, isRolling}; }
};

Result<Header> readHeader(Reader& reader) {
  Header header;
  DH_TRY(header.index, reader.varint(UINT32_MAX));
  DH_TRY(header.blockShift, reader.u8());
  DH_TRY(const uint8_t kind, reader.u8());
  header.isRolling = (kind & kRollingSums) != 0;
  header.sumBytes = kind & ~unsigned{kRollingSums};
  const unsigned least = header.isRolling ? kWeakSumBytes + 1 : kMinSumBytes;
  if (header.blockShift < kMinQueryShift || header.blockShift > kSumSegmentShift || header.sumBytes < least ||
      header.sumBytes > kMaxSumBytes) {
    return Error{Code::kUnsupported, "sums of an unknown kind", 0};
  }
  return header;
}

}  // namespace

void PageRequests::add(uint32_t index, BasisChoice choice, uint64_t basisBytes, uint64_t targetBytes) {
  const std::lock_guard lock(mutex_);
  files_[index] = {std::move(choice), basisBytes, kMostTimes * (basisBytes + targetBytes)};
}

Status PageRequests::ask(ByteSpan payload) {
  Reader reader(payload);
  DH_TRY(const Header header, readHeader(reader));
  DH_TRY(const ByteSpan runs, unpackers_[0].unpack(reader));
  const std::lock_guard lock(mutex_);
  const auto file = files_.find(static_cast<uint32_t>(header.index));
  if (file == files_.end() || closed_) return Error{Code::kProtocol, "a question about no request", 0};
  SumQuery query = header.query();
  DH_CHECK(decodeRuns(runs, file->second.basisBytes, file->second.budgetBytes >> header.blockShift, query));
  file->second.budgetBytes -= query.readBytes();
  waitingBytes_ += payload.size();
  if (waitingBytes_ > kMaxWaitingBytes) return Error{Code::kLimit, "too many questions at once", 0};
  waiting_.emplace_back(payload.begin(), payload.end());
  changed_.notify_all();
  return {};
}

std::optional<PageRequests::Question> PageRequests::next(bool wait) {
  Bytes payload;
  uint64_t basisBytes = 0;
  {
    std::unique_lock lock(mutex_);
    if (wait) changed_.wait(lock, [&] { return !waiting_.empty() || closed_; });
    if (waiting_.empty() || closed_) return std::nullopt;
    payload = std::move(waiting_.front());
    waiting_.pop_front();
    waitingBytes_ -= payload.size();
    Reader reader(payload);
    const auto header = readHeader(reader);
    basisBytes = files_.at(static_cast<uint32_t>(header.value().index)).basisBytes;
  }
  // It was found good when it came.
  Reader reader(payload);
  const Header header = readHeader(reader).value();
  Question question{static_cast<uint32_t>(header.index), header.query()};
  const auto runs = unpackers_[1].unpack(reader);
  if (!runs.ok() || !decodeRuns(runs.value(), basisBytes, UINT64_MAX, question.query).ok()) return std::nullopt;
  return question;
}

bool PageRequests::hasQuestion() {
  const std::lock_guard lock(mutex_);
  return !waiting_.empty();
}

void PageRequests::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

}  // namespace deltahop
