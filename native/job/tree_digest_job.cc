#include "job/tree_digest_job.h"

#include <chrono>
#include <utility>

#include "base/hex.h"
#include "job/threaded_job.h"
#include "tree/manifest.h"
#include "tree/scan.h"

namespace deltahop {
namespace {

class TreeDigestJob final : public ThreadedJob {
 public:
  explicit TreeDigestJob(TreeDigestJobOptions options) : options_(std::move(options)) {}
  ~TreeDigestJob() override { stop(); }

 protected:
  Result<JobReport> run() override {
    const CancelCheck check = [this] { return cancelled(); };
    const auto start = std::chrono::steady_clock::now();
    DH_TRY(const Directory root, Directory::openRoot(options_.rootPath));
    Notes notes;
    DH_TRY(ScanResult scanned, scanTree(root, ScanOptions{options_.excludeXattrs}, notes, check));
    if (!scanned.complete) {
      // A digest of a part would be a digest of another tree.
      const std::vector<std::string> missed = notes.take();
      return Error{Code::kIo, missed.empty() ? "the tree could not be read whole" : missed.front(), 0};
    }
    Tree& tree = scanned.tree;
    const auto scannedAt = std::chrono::steady_clock::now();
    ContentDigestOptions options;
    options.onBytes = [&](uint64_t done) { progress(Progress{done, tree.totalBytes(), 0, tree.totalFiles()}); };
    DH_CHECK(addContentDigests(root, tree, options, check));
    JobReport report;
    report.text = digestText(manifestDigest(tree));
    report.notes = notes.take();
    const auto ms = [](auto from, auto to) { return std::chrono::duration<double, std::milli>(to - from).count(); };
    report.statistics = {{"files", static_cast<double>(tree.totalFiles())},
                         {"bytes", static_cast<double>(tree.totalBytes())},
                         {"entries", static_cast<double>(tree.size())},
                         {"scanMs", ms(start, scannedAt)},
                         {"digestMs", ms(scannedAt, std::chrono::steady_clock::now())}};
    progress(Progress{tree.totalBytes(), tree.totalBytes(), tree.totalFiles(), tree.totalFiles()}, true);
    return report;
  }

 private:
  const TreeDigestJobOptions options_;
};

}  // namespace

std::unique_ptr<Job> makeTreeDigestJob(TreeDigestJobOptions options) {
  return std::make_unique<TreeDigestJob>(std::move(options));
}

}  // namespace deltahop
