#include "job/patch_job.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "base/hex.h"
#include "codec/delta_stream.h"
#include "codec/patcher.h"
#include "io/basis.h"
#include "io/replacement_file.h"
#include "job/threaded_job.h"

namespace deltahop {
namespace {

constexpr size_t kOutputPieceBytes = 256 * 1024;
// One file is one span: its block size plays no part in where things lie.
constexpr uint32_t kAnyBlockBytes = 4096;

class PatchJob final : public ThreadedJob, private PatchOutput, private DeltaStreamSink {
 public:
  explicit PatchJob(PatchJobOptions options) : options_(std::move(options)) {}
  ~PatchJob() override { stop(); }

 private:
  Result<JobReport> run() override {
    DH_TRY(File basisFile, File::openRegular(options_.basisPath));
    DH_TRY(const struct stat basisStatus, basisFile.stat());
    std::vector<File> files;
    files.push_back(std::move(basisFile));
    DH_TRY(basis_, Basis::make(std::move(files), kAnyBlockBytes));
    std::optional<ReplacementFile> replacement;
    if (options_.outputPath.has_value()) {
      DH_TRY(ReplacementFile created, ReplacementFile::create(*options_.outputPath));
      replacement.emplace(std::move(created));
      fileOutput_.emplace(replacement->file());
    }
    patcher_.emplace(basis_, static_cast<PatchOutput&>(*this));
    DeltaStreamReader reader(*this);
    uint64_t receivedBytes = 0;
    for (;;) {
      DH_TRY(const Bytes input, read());
      if (input.empty()) break;
      receivedBytes += input.size();
      DH_CHECK(reader.feed(input));
      progress({patcher_->doneBytes(), 0, 0, 1});
    }
    DH_CHECK(reader.expectEnd());
    if (replacement.has_value()) {
      if (cancelled()) return Error{Code::kCancelled, "cancelled"};
      DH_CHECK(replacement->commit(replacement->modeOfReplaced(basisStatus.st_mode & 0777)));
    }
    progress({summary_.size, summary_.size, 1, 1}, true);
    JobReport report;
    report.statistics = {{"targetBytes", static_cast<double>(summary_.size)},
                         {"matchedBytes", static_cast<double>(summary_.matchedBytes)},
                         {"literalBytes", static_cast<double>(summary_.literalBytes)},
                         {"zeroBytes", static_cast<double>(summary_.zeroBytes)},
                         {"receivedBytes", static_cast<double>(receivedBytes)}};
    report.text = digestText(digest_);
    return report;
  }

  Status onHeader(uint64_t basisBytes) override {
    if (basisBytes == basis_.size()) return {};
    return Error{Code::kMismatch, "the delta was made against a basis of another size"};
  }

  Status onBlock(ByteSpan block) override { return patcher_->apply(block); }

  Status onEnd(uint64_t targetBytes, const Digest& contentDigest) override {
    DH_TRY(summary_, patcher_->finish(targetBytes, contentDigest));
    digest_ = contentDigest;
    return {};
  }

  // PatchOutput: into the file, or out of the job.
  Status write(ByteSpan data) override {
    if (cancelled()) return Error{Code::kCancelled, "cancelled"};
    if (fileOutput_.has_value()) return fileOutput_->write(data);
    while (!data.empty()) {
      const size_t taken = std::min(data.size(), kOutputPieceBytes);
      DH_CHECK(ThreadedJob::write(Bytes(data.begin(), data.begin() + static_cast<ptrdiff_t>(taken))));
      data = data.subspan(taken);
    }
    return {};
  }

  Status zeros(uint64_t length) override {
    if (fileOutput_.has_value()) return fileOutput_->zeros(length);
    while (length > 0) {
      const size_t taken = std::min<uint64_t>(length, kOutputPieceBytes);
      DH_CHECK(ThreadedJob::write(Bytes(taken)));
      length -= taken;
    }
    return {};
  }

  Status finish(uint64_t size) override { return fileOutput_.has_value() ? fileOutput_->finish(size) : Status(); }

  const PatchJobOptions options_;
  Basis basis_;
  std::optional<FileOutput> fileOutput_;
  std::optional<Patcher> patcher_;
  PatchSummary summary_;
  Digest digest_{};
};

}  // namespace

std::unique_ptr<Job> makePatchJob(PatchJobOptions options) {
  return std::make_unique<PatchJob>(std::move(options));
}

}  // namespace deltahop
