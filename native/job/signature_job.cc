#include "job/signature_job.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <memory>
#include <utility>
#include <vector>

#include "hash/content_digest.h"
#include "io/basis.h"
#include "job/threaded_job.h"
#include "signature/signature.h"

namespace deltahop {
namespace {

// A stream of 16 GiB still fits the entries of one signature.
constexpr uint32_t kStreamBlockBytes = 16384;
constexpr size_t kStreamAtOnceBytes = 256 * 1024;

Result<Key> randomKey() {
  Key key;
  size_t done = 0;
  while (done < key.size()) {
    const ssize_t got = ::getrandom(key.data() + done, key.size() - done, 0);
    if (got < 0 && errno != EINTR) return systemError(errno, "draw a key");
    if (got > 0) done += static_cast<size_t>(got);
  }
  return key;
}

class SignatureJob final : public ThreadedJob {
 public:
  explicit SignatureJob(SignatureJobOptions options) : options_(std::move(options)) {}
  ~SignatureJob() override { stop(); }

 private:
  Result<JobReport> run() override {
    const uint32_t wanted = options_.blockBytes;
    if (wanted != 0 && (!std::has_single_bit(wanted) || wanted < kMinBlockBytes || wanted > kMaxBlockBytes)) {
      return Error{Code::kInvalidArgument, "block size not a power of two in [512, 64 MiB]"};
    }
    Key key{};
    if (options_.key.has_value()) {
      key = *options_.key;
    } else {
      DH_TRY(key, randomKey());
    }
    return options_.basisPath.has_value() ? signFile(key) : signInput(key);
  }

  Result<JobReport> signFile(const Key& key) {
    DH_TRY(File file, File::openRegular(*options_.basisPath));
    DH_TRY(const uint64_t fileBytes, file.size());
    blockBytes_ = options_.blockBytes != 0 ? options_.blockBytes : chooseBlockBytes(fileBytes);
    std::vector<File> files;
    files.push_back(std::move(file));
    DH_TRY(const Basis basis, Basis::make(std::move(files), blockBytes_));
    SignatureBuilder builder(basis, key, true);
    const auto onProgress = [&](uint64_t doneBytes) {
      progress({doneBytes, fileBytes, 0, 1});
      return !cancelled();
    };
    for (;;) {
      DH_TRY(Bytes piece, builder.next(onProgress));
      if (piece.empty()) break;
      sentBytes_ += piece.size();
      DH_CHECK(write(std::move(piece)));
    }
    return report(basis.size(), builder.readBytes(), builder.blockCount());
  }

  Result<JobReport> signInput(const Key& key) {
    blockBytes_ = options_.blockBytes != 0 ? options_.blockBytes : kStreamBlockBytes;
    SignatureWriter writer(blockBytes_, key, true);
    const size_t atOnce = std::max<size_t>(kStreamAtOnceBytes, blockBytes_);
    Bytes pending;
    uint64_t taken = 0;  // whole blocks already signed, in bytes
    for (;;) {
      DH_TRY(const Bytes input, read());
      pending.insert(pending.end(), input.begin(), input.end());
      const bool isEnd = input.empty();
      if (!isEnd && pending.size() < atOnce) continue;
      const size_t length = isEnd ? pending.size() : pending.size() / blockBytes_ * blockBytes_;
      if (taken + length > kMaxFileBytes) return Error{Code::kLimit, "stream larger than 64 TiB"};
      DH_CHECK(writer.addBlocks(taken / blockBytes_, ByteSpan(pending).first(length)));
      taken += length;
      pending.erase(pending.begin(), pending.begin() + static_cast<ptrdiff_t>(length));
      progress({taken, 0, 0, 1});
      if (isEnd) writer.finish(std::array{taken});
      Bytes made = writer.take();
      sentBytes_ += made.size();
      DH_CHECK(write(std::move(made)));
      if (isEnd) break;
    }
    return report(taken, taken, writer.blockCount());
  }

  JobReport report(uint64_t basisBytes, uint64_t readBytes, uint64_t blocks) {
    progress({basisBytes, basisBytes, 1, 1}, true);
    JobReport report;
    report.statistics = {{"basisBytes", static_cast<double>(basisBytes)},
                         {"readBytes", static_cast<double>(readBytes)},
                         {"blocks", static_cast<double>(blocks)},
                         {"blockBytes", static_cast<double>(blockBytes_)},
                         {"sentBytes", static_cast<double>(sentBytes_)}};
    return report;
  }

  const SignatureJobOptions options_;
  uint32_t blockBytes_ = 0;
  uint64_t sentBytes_ = 0;
};

}  // namespace

std::unique_ptr<Job> makeSignatureJob(SignatureJobOptions options) {
  return std::make_unique<SignatureJob>(std::move(options));
}

}  // namespace deltahop
