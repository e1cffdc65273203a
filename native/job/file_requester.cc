#include "job/file_requester.h"

#include <utility>

#include "signature/signature.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr size_t kMaxIndexesPerRequest = 4096;
// Up to this size a signature costs about as much as the file.
constexpr uint64_t kAlwaysWholeBytes = 512;

}  // namespace

Status FileRequester::request(const std::vector<uint32_t>& files, bool withBasis) {
  for (const uint32_t index : files) {
    if (stop_.load(std::memory_order_relaxed)) return Error{Code::kCancelled, "request", 0};
    BasisChoice choice;
    choice.blockBytes = kMinBlockBytes;
    Basis basis;
    if (withBasis && tree_.wanted.fileBytes(index) > kAlwaysWholeBytes) {
      DH_TRY(basis, chooseBasis(tree_, parents_, index, choice));
    }
    book_.add(index, std::move(choice));
    if (basis.size() == 0) {
      whole_.push_back(index);
      if (whole_.size() >= kMaxIndexesPerRequest) DH_CHECK(flushWhole());
      continue;
    }
    DH_CHECK(flushWhole());
    const Status sent = sendSignature(index, basis);
    if (!sent.ok()) return withPath(sent.error(), tree_.wanted.path(index));
  }
  DH_CHECK(flushWhole());
  DH_CHECK(out_.send(Message::kRequestsEnd, {}));
  return out_.flush();
}

Status FileRequester::flushWhole() {
  if (whole_.empty()) return {};
  Bytes payload;
  Writer writer(payload);
  uint32_t next = 0;
  for (const uint32_t index : whole_) {
    writer.varint(index - next);
    next = index + 1;
  }
  whole_.clear();
  return out_.send(Message::kRequest, payload);
}

Status FileRequester::sendSignature(uint32_t index, const Basis& basis) {
  SignatureBuilder builder(basis, key_, false);
  DH_TRY(Bytes piece, builder.next());
  for (bool last = false; !last;) {
    if (stop_.load(std::memory_order_relaxed)) return Error{Code::kCancelled, "request", 0};
    DH_TRY(Bytes following, builder.next());
    last = following.empty();
    Bytes payload;
    Writer writer(payload);
    writer.varint(index);
    writer.u8(last ? kSignatureLast : 0);
    writer.raw(piece);
    signatureBytes_ += payload.size();
    DH_CHECK(out_.send(Message::kSignature, payload));
    piece = std::move(following);
  }
  readBytes_ += builder.readBytes();
  return {};
}

}  // namespace deltahop
