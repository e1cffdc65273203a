#include "job/file_requester.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "hash/content_digest.h"
#include "io/page_file.h"
#include "job/shared_basis.h"
#include "signature/signature.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr size_t kWholePieceBytes = 4096;
// Less than what is said of a file that may lie here.
constexpr uint64_t kNeverOfferedBytes = 24;
constexpr size_t kSumsPieceBytes = 64 << 10;
constexpr size_t kOffersPieceBytes = 16 << 10;
constexpr uint64_t kMaxSumsAtOnce = 4096;
// Where a tar archive says that it is one: its members lie at multiples of 512 bytes, and move by these.
constexpr uint64_t kTarMagicAt = 257;
constexpr std::string_view kTarMagic = "ustar";

// Files of pages of which one old one is there, and nothing that an earlier transfer left.
bool isAskedByPages(uint64_t bytes, const BasisChoice& choice, const Basis& basis) {
  if (!choice.leftOvers.empty() || bytes > kMaxSummedBytes || basis.size() > kMaxSummedBytes) return false;
  if (!isPaged(bytes, basis.size())) return false;
  std::array<uint8_t, kTarMagic.size()> magic;
  return !basis.readAt(kTarMagicAt, magic).ok() || !std::equal(magic.begin(), magic.end(), kTarMagic.begin());
}

}  // namespace

Status FileRequester::request(const std::vector<uint32_t>& files) {
  // Offers first: they cost least, and the answers come while the rest is asked for.
  std::vector<uint32_t> others;
  for (const uint32_t index : files) {
    if (stop_.load(std::memory_order_relaxed)) return Error{Code::kCancelled, "request", 0};
    DH_TRY(const bool offered, offer(index));
    if (!offered) others.push_back(index);
  }
  DH_CHECK(flushOffers());
  std::vector<Paged> paged;
  for (const uint32_t index : others) DH_CHECK(requestFile(index, paged));
  for (;;) {
    if (!book_.hasDiffering()) {
      DH_CHECK(flushWhole());
      DH_CHECK(out_.flush());
    }
    const auto differing = book_.takeDiffering();
    if (!differing.has_value()) break;
    DH_CHECK(requestFile(*differing, paged));
  }
  return finish(std::move(paged));
}

Status FileRequester::requestFile(uint32_t index, std::vector<Paged>& paged) {
  if (stop_.load(std::memory_order_relaxed)) return Error{Code::kCancelled, "request", 0};
  const uint64_t bytes = tree_.wanted.fileBytes(index);
  BasisChoice choice;
  choice.blockBytes = kMinBlockBytes;
  Basis basis;
  if (bytes > kAlwaysWholeBytes) {
    DH_TRY(basis, chooseBasis(tree_, parents_, index, choice));
  }
  if (basis.size() == 0 && index == tree_.commonFor) {
    choice.common = true;
    choice.blockBytes = kPageBytes;
    choice.bytes = tree_.common.bytes();
    paged.push_back({index, std::move(choice), kPagesCommon});
    return {};
  }
  if (basis.size() == 0) return requestWhole(index);
  if (isAskedByPages(bytes, choice, basis)) {
    paged.push_back({index, std::move(choice), 0});
    return {};
  }
  book_.add(index, std::move(choice));
  DH_CHECK(flushWhole());
  const Status sent = sendSignature(index, basis);
  return sent.ok() ? sent : withPath(sent.error(), tree_.wanted.path(index));
}

Status FileRequester::requestRepairs(const std::vector<Repair>& repairs) {
  std::vector<Paged> paged;
  for (const Repair& repair : repairs) {
    if (stop_.load(std::memory_order_relaxed)) return Error{Code::kCancelled, "request", 0};
    BasisChoice choice = repair.result;
    if (tree_.wanted.fileBytes(repair.index) > kSmallFileBytes) {
      DH_TRY(const Basis basis, openBasis(tree_, parents_, repair.index, choice));
      if (basis.size() > 0 && basis.size() <= kMaxSummedBytes) {
        paged.push_back({repair.index, std::move(choice), kPagesExact});
        continue;
      }
    }
    DH_CHECK(requestWhole(repair.index));
  }
  return finish(std::move(paged));
}

Status FileRequester::requestWhole(uint32_t index) {
  BasisChoice none;
  none.blockBytes = kMinBlockBytes;
  if (!whole_.takes(index)) DH_CHECK(flushWhole());
  book_.add(index, std::move(none));
  whole_.add(index);
  return whole_.bytes() >= kWholePieceBytes ? flushWhole() : Status();
}

// A file that lies here already, maybe; true if there is one.
Result<bool> FileRequester::offer(uint32_t index) {
  BasisChoice choice;
  choice.blockBytes = kMinBlockBytes;
  choice.offered = findOffer(index);
  if (choice.offered == kNoEntry) return false;
  if (!offers_.takes(index)) DH_CHECK(flushOffers());
  const auto digest = digestOfOffer(choice.offered, choice.offered == tree_.plan.partners[index]);
  if (!digest.has_value()) return false;
  choice.digest = *digest;
  choice.bytes = tree_.wanted.fileBytes(index);
  offers_.add(index);
  offers_.add(ByteSpan(offerSum(key_, choice.digest)).first(offerBytes_));
  book_.add(index, std::move(choice));
  if (offers_.bytes() >= kOffersPieceBytes) DH_CHECK(flushOffers());
  return true;
}

// The own file of the same size that may be the wanted one: that at its path or, where there is none, one that was
// moved.
uint32_t FileRequester::findOffer(uint32_t index) {
  const uint64_t bytes = tree_.wanted.fileBytes(index);
  if (bytes <= kNeverOfferedBytes) return kNoEntry;
  // What a cut transfer has left may be more of it.
  const std::string path = tree_.wanted.path(index);
  if (!tree_.partial.leftOvers(path).empty() || !tree_.partial.leftJournal(path).empty()) return kNoEntry;
  const uint32_t partner = tree_.plan.partners[index];
  const bool isThere = partner != kNoEntry && tree_.own.isRegular(partner) && tree_.own.fileBytes(partner) > 0;
  if (!isThere) return moved_.find(index);
  // Where the manifests have digests, these have said that it differs. Files of pages, which mostly have kept their
  // size, are asked for so that little is lost if all of one is there.
  const bool may =
      tree_.own.fileBytes(partner) == bytes && !isPaged(bytes, bytes) && tree_.wanted.digest(index) == nullptr;
  return may ? partner : kNoEntry;
}

// Nothing if the file is not as it was found, or is the partner and must not be kept under its name.
std::optional<Digest> FileRequester::digestOfOffer(uint32_t own, bool isPartner) {
  const Digest* known = tree_.own.digest(own);
  if (known != nullptr && !isPartner) return *known;
  const auto parent = ownParents_.parentOf(own);
  if (!parent.ok()) return std::nullopt;
  const auto file = parent.value()->openRegular(std::string(tree_.own.name(own)));
  if (!file.ok()) return std::nullopt;
  if (isPartner) {
    const auto status = file.value().stat();
    if (!status.ok() || !mayStay(tree_, own, status.value())) return std::nullopt;
    if (known != nullptr) return *known;
  }
  const uint64_t bytes = tree_.own.fileBytes(own);
  readBytes_ += bytes;
  if (bytes <= kContentSegmentBytes) {
    // Looking for holes would cost more than reading them.
    content_.resize(static_cast<size_t>(bytes));
    const auto got = file.value().readAt(0, content_);
    if (!got.ok() || got.value() < bytes) return std::nullopt;
    return contentDigest(content_);
  }
  const auto digest = contentDigest(file.value(), [&](uint64_t) { return !stop_.load(std::memory_order_relaxed); });
  const auto size = file.value().size();
  if (!digest.ok() || !size.ok() || size.value() != bytes) return std::nullopt;
  return digest.value();
}

Status FileRequester::flushOffers() {
  if (offers_.isEmpty()) return {};
  signatureBytes_ += offers_.bytes();
  return out_.send(Message::kOffer, offers_.take());
}

Status FileRequester::finish(std::vector<Paged> paged) {
  DH_CHECK(flushWhole());
  DH_CHECK(flushOffers());
  for (Paged& file : paged) {
    if (stop_.load(std::memory_order_relaxed)) return Error{Code::kCancelled, "request", 0};
    DH_CHECK(requestPages(std::move(file)));
    DH_CHECK(answerQuestions(false));
  }
  DH_CHECK(out_.send(Message::kRequestsEnd, {}));
  DH_CHECK(out_.flush());
  if (paged.empty()) return {};
  return answerQuestions(true);
}

// The sender has that basis itself, and asks nothing.
Status FileRequester::requestCommon(Paged paged) {
  Bytes payload;
  Writer writer(payload);
  writer.varint(paged.index);
  writer.u8(paged.flags);
  writer.varint(paged.choice.bytes);
  writer.u8(tree_.common.which());
  signatureBytes_ += payload.size();
  book_.add(paged.index, std::move(paged.choice));
  return out_.send(Message::kPagesWanted, payload);
}

Status FileRequester::requestPages(Paged paged) {
  if (paged.choice.common) return requestCommon(std::move(paged));
  const uint32_t index = paged.index;
  basisIndex_ = kNoEntry;
  DH_TRY(basis_, openBasis(tree_, parents_, index, paged.choice));
  basisIndex_ = index;
  const uint64_t basisBytes = basis_.size();
  paged.choice.bytes = basisBytes;
  if (basisBytes == 0) return requestWhole(index);  // it went away
  book_.add(index, paged.choice);
  pages_.add(index, std::move(paged.choice), basisBytes, tree_.wanted.fileBytes(index));
  Bytes payload;
  Writer writer(payload);
  writer.varint(index);
  writer.u8(paged.flags);
  writer.varint(basisBytes);
  signatureBytes_ += payload.size();
  DH_CHECK(out_.send(Message::kPagesWanted, payload));
  PageSums sums(basis_, key_);
  SumQuery all{kSumSegmentShift, kMaxSumBytes, {}};
  all.add(0, (basisBytes + kSumSegmentBytes - 1) / kSumSegmentBytes);
  return sendSums(index, sums, all);
}

Status FileRequester::answerQuestions(bool wait) {
  while (auto question = pages_.next(wait)) {
    if (stop_.load(std::memory_order_relaxed)) return Error{Code::kCancelled, "request", 0};
    DH_CHECK(answer(*question));
    // While there is another question, there is more to gather.
    if (wait && !pages_.hasQuestion()) DH_CHECK(out_.flush());
  }
  return {};
}

Status FileRequester::answer(const PageRequests::Question& question) {
  if (question.index != basisIndex_) {
    basisIndex_ = kNoEntry;
    DH_TRY(basis_, openBasis(tree_, parents_, question.index, pages_.choiceOf(question.index)));
    basisIndex_ = question.index;
  }
  PageSums sums(basis_, key_);
  return sendSums(question.index, sums, question.query);
}

Status FileRequester::sendSums(uint32_t index, PageSums& sums, const SumQuery& query) {
  Bytes gathered;
  const auto flush = [&]() -> Status {
    if (gathered.empty()) return {};
    Bytes payload;
    Writer(payload).varint(index);
    DH_CHECK(packer_.pack(payload, gathered));
    gathered.clear();
    signatureBytes_ += payload.size();
    return out_.send(Message::kSums, payload);
  };
  for (const BlockRun& run : query.runs) {
    for (uint64_t done = 0; done < run.count;) {
      const BlockRun part{run.first + done, std::min(run.count - done, kMaxSumsAtOnce)};
      const size_t before = gathered.size();
      const Status made = sums.append(gathered, query.blockShift, query.sumBytes, part, query.isRolling);
      // A basis is only a help. What cannot be read any more has sums that fit nothing; if one does, it is repaired.
      if (!made.ok()) gathered.resize(before);
      gathered.resize(before + part.count * query.sumBytes);
      done += part.count;
      if (gathered.size() >= kSumsPieceBytes) DH_CHECK(flush());
    }
  }
  readBytes_ += sums.readBytes();
  return flush();
}

Status FileRequester::flushWhole() {
  return whole_.isEmpty() ? Status() : out_.send(Message::kRequest, whole_.take());
}

Status FileRequester::sendSignature(uint32_t index, const Basis& basis) {
  SignatureBuilder builder(basis, key_, false, chooseStrongBytes(basis.size(), basis.blockBytes()));
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
    // The sender looks for what it knows of while the rest is made.
    if (!last) DH_CHECK(out_.flush());
    piece = std::move(following);
  }
  readBytes_ += builder.readBytes();
  return {};
}

}  // namespace deltahop
