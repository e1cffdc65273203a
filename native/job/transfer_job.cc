#include "job/transfer_job.h"

#include <new>
#include <utility>

namespace deltahop {
namespace {

constexpr size_t kMaxBufferBytes = 1 << 20;

}  // namespace

Result<JobReport> TransferJob::run() {
  Result<JobReport> outcome = Error{Code::kLimit, "out of memory", 0};
  try {
    outcome = transfer();
  } catch (const std::bad_alloc&) {
  }
  if (!outcome.ok() && !peerFailed_ && !cancelled()) {
    Bytes buffer;
    if (writeFrame(buffer, static_cast<uint8_t>(Message::kError), encodeError(outcome.error())).ok()) {
      // The failure that counts is the first one; this one may well find nobody.
      if (!writeNow(std::move(buffer)).ok()) return outcome;
    }
  }
  return outcome;
}

bool TransferJob::messageWaiting() {
  if (ahead_.has_value() || inputWaiting()) return true;
  auto frame = frames_.next();
  if (!frame.ok()) return true;  // receive() meets the same error
  ahead_ = std::move(frame).value();
  return ahead_.has_value();
}

Result<Frame> TransferJob::receive() {
  for (;;) {
    std::optional<Frame> frame = std::exchange(ahead_, std::nullopt);
    if (!frame.has_value()) {
      DH_TRY(frame, frames_.next());
    }
    if (frame.has_value()) {
      if (frame->type != static_cast<uint8_t>(Message::kError)) return std::move(*frame);
      peerFailed_ = true;
      return decodeError(frame->payload);
    }
    DH_TRY(const Bytes input, read());
    if (input.empty()) return Error{Code::kTruncated, "the stream ended before the transfer did", 0};
    receivedBytes_ += input.size();
    frames_.feed(input);
  }
}

JobReport TransferJob::report(const Statistics& statistics, std::string text) {
  JobReport report;
  for (const auto& [name, value] : statistics) report.statistics.push_back(Statistic{name, value});
  report.notes = notes_.take();
  report.text = std::move(text);
  return report;
}

Status MessageWriter::send(Message type, ByteSpan payload) {
  if (!buffer_.empty() && buffer_.size() + payload.size() + kFrameHeaderBytes > kMaxBufferBytes) DH_CHECK(flush());
  DH_CHECK(writeFrame(buffer_, static_cast<uint8_t>(type), payload));
  return buffer_.size() >= gatherBytes_ ? flush() : Status();
}

Status MessageWriter::flush() {
  if (buffer_.empty()) return {};
  sentBytes_ += buffer_.size();
  return write_(std::exchange(buffer_, Bytes()));
}

}  // namespace deltahop
