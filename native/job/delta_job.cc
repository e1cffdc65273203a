#include "job/delta_job.h"

#include <utility>

#include "base/hex.h"
#include "codec/delta_stream.h"
#include "hash/content_digest.h"
#include "io/file.h"
#include "job/threaded_job.h"
#include "match/matcher.h"
#include "signature/signature.h"

namespace deltahop {
namespace {

class DeltaJob final : public ThreadedJob {
 public:
  explicit DeltaJob(DeltaJobOptions options) : options_(std::move(options)) {}
  ~DeltaJob() override { stop(); }

 private:
  Result<JobReport> run() override {
    if (options_.zstdLevel < 1 || options_.zstdLevel > 19) {
      return Error{Code::kInvalidArgument, "compression level not in 1 to 19"};
    }
    SignatureParser parser;
    DH_CHECK(parser.feed(options_.signature));
    DH_TRY(const Signature signature, parser.finish());
    options_.signature = Bytes();
    const SignatureIndex index(signature);

    Bytes header;
    writeDeltaHeader(header, signature.basisBytes());
    DH_CHECK(send(std::move(header)));
    DeltaEncoder encoder(
        [this](Bytes block) {
          Bytes framed;
          framed.reserve(block.size() + 4);
          writeDeltaBlock(framed, block);
          return send(std::move(framed));
        },
        options_.zstdLevel);
    Matcher matcher(index, encoder);
    ContentHasher hasher;
    uint64_t totalBytes = 0;
    if (options_.targetPath.has_value()) {
      DH_TRY(const File file, File::openRegular(*options_.targetPath));
      DH_TRY(totalBytes, file.size());
      DH_CHECK(matchFile(file, matcher, hasher, [&](uint64_t doneBytes) {
        progress({doneBytes, totalBytes, 0, 1});
        return !cancelled();
      }));
    } else {
      for (;;) {
        DH_TRY(const Bytes input, read());
        if (input.empty()) break;
        hasher.update(input);
        if (hasher.size() > kMaxFileBytes) return Error{Code::kLimit, "target larger than 64 TiB"};
        DH_CHECK(matcher.feed(input));
        progress({hasher.size(), 0, 0, 1});
      }
    }
    DH_CHECK(matcher.finish());
    DH_CHECK(encoder.finish());
    const uint64_t targetBytes = hasher.size();
    const Digest digest = hasher.finish();
    Bytes end;
    writeDeltaEnd(end, targetBytes, digest);
    DH_CHECK(send(std::move(end)));
    progress({targetBytes, targetBytes, 1, 1}, true);

    const MatchStatistics& matched = matcher.statistics();
    JobReport report;
    report.statistics = {{"targetBytes", static_cast<double>(targetBytes)},
                         {"readBytes", static_cast<double>(matched.readBytes)},
                         {"matchedBytes", static_cast<double>(matched.matchedBytes)},
                         {"literalBytes", static_cast<double>(matched.literalBytes)},
                         {"literalEncodedBytes", static_cast<double>(encoder.statistics().literalEncodedBytes)},
                         {"zeroBytes", static_cast<double>(matched.zeroBytes)},
                         {"falseMatches", static_cast<double>(matched.falseMatches)},
                         {"probedOffsets", static_cast<double>(matched.probedOffsets)},
                         {"sentBytes", static_cast<double>(sentBytes_)}};
    report.text = digestText(digest);
    return report;
  }

  Status send(Bytes bytes) {
    sentBytes_ += bytes.size();
    return write(std::move(bytes));
  }

  DeltaJobOptions options_;
  uint64_t sentBytes_ = 0;
};

}  // namespace

std::unique_ptr<Job> makeDeltaJob(DeltaJobOptions options) {
  return std::make_unique<DeltaJob>(std::move(options));
}

}  // namespace deltahop
