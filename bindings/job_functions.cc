#include "job_functions.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "base/hex.h"
#include "job/delta_job.h"
#include "job/patch_job.h"
#include "job/receive_job.h"
#include "job/send_job.h"
#include "job/signature_job.h"
#include "job/tree_digest_job.h"
#include "job_object.h"
#include "options.h"

namespace deltahop::bindings {

namespace {

std::unique_ptr<Job> signatureJob(Options& from) {
  SignatureJobOptions options;
  options.basisPath = from.textOrNull("basisPath");
  options.blockBytes = static_cast<uint32_t>(from.integer("blockBytes", 0, 1 << 20));
  return from.ok() ? makeSignatureJob(std::move(options)) : nullptr;
}

std::unique_ptr<Job> deltaJob(Options& from) {
  DeltaJobOptions options;
  options.signature = from.bytes("signature");
  options.targetPath = from.textOrNull("targetPath");
  options.zstdLevel = static_cast<int>(from.integer("zstdLevel", 1, 19));
  return from.ok() ? makeDeltaJob(std::move(options)) : nullptr;
}

std::unique_ptr<Job> patchJob(Options& from) {
  PatchJobOptions options;
  options.basisPath = from.text("basisPath");
  options.outputPath = from.textOrNull("outputPath");
  return from.ok() ? makePatchJob(std::move(options)) : nullptr;
}

std::vector<CommonFile> commonFiles(Options& from) {
  std::vector<CommonFile> files;
  for (const std::string& path : from.texts("commonPaths")) files.push_back({path, {}});
  const std::vector<std::string> ids = from.texts("commonIds");
  for (size_t i = 0; i < std::min(files.size(), ids.size()); ++i) files[i].id = digestOf(ids[i]);
  return files;
}

std::unique_ptr<Job> sendJob(Options& from) {
  SendJobOptions options;
  options.rootPath = from.text("rootPath");
  options.beneath = from.text("beneath");
  options.entryName = from.textOrNull("entryName");
  options.againstPath = from.textOrNull("againstPath");
  options.excludeXattrs = from.texts("excludeXattrs");
  options.verify = from.flag("verify");
  options.lateDigests = from.flag("lateDigests");
  options.allowChanging = from.flag("allowChanging");
  options.zstdLevel = static_cast<int>(from.integer("zstdLevel", 1, 19));
  options.recordPath = from.textOrNull("recordPath");
  const std::optional<std::string> basisTreePath = from.textOrNull("basisTreePath");
  const std::optional<std::string> basisRecordPath = from.textOrNull("basisRecordPath");
  if (basisTreePath.has_value() && basisRecordPath.has_value()) options.basis = {*basisTreePath, *basisRecordPath};
  options.common = commonFiles(from);
  return from.ok() ? makeSendJob(std::move(options)) : nullptr;
}

// The largest integer that a JavaScript number holds exactly.
constexpr int64_t kMaxSafeInteger = (int64_t{1} << 53) - 1;

std::unique_ptr<Job> receiveJob(Options& from) {
  ReceiveJobOptions options;
  options.rootPath = from.text("rootPath");
  options.beneath = from.text("beneath");
  options.entryName = from.textOrNull("entryName");
  options.durable = from.flag("durable");
  options.deleteOthers = from.flag("deleteOthers");
  options.maxDeletes = static_cast<uint64_t>(from.integer("maxDeletes", 0, kMaxSafeInteger));
  options.inPlace = from.flag("inPlace");
  options.dryRun = from.flag("dryRun");
  options.itemize = from.flag("itemize");
  options.recordPath = from.textOrNull("recordPath");
  options.common = commonFiles(from);
  return from.ok() ? makeReceiveJob(std::move(options)) : nullptr;
}

std::unique_ptr<Job> treeDigestJob(Options& from) {
  TreeDigestJobOptions options;
  options.rootPath = from.text("rootPath");
  options.excludeXattrs = from.texts("excludeXattrs");
  return from.ok() ? makeTreeDigestJob(std::move(options)) : nullptr;
}

struct JobFunction {
  const char* name;
  std::unique_ptr<Job> (*make)(Options& options);  // null, with an exception pending, if the options are wrong
};

constexpr JobFunction kJobFunctions[] = {
    {"signatureJob", signatureJob}, {"deltaJob", deltaJob},     {"patchJob", patchJob},
    {"sendJob", sendJob},           {"receiveJob", receiveJob}, {"treeDigestJob", treeDigestJob},
};

}  // namespace

void defineJobFunctions(Napi::Env env, Napi::Object exports) {
  // The environment keeps the class, so that an environment of a worker thread has one of its own.
  auto* jobClass = new Napi::FunctionReference(Napi::Persistent(JobObject::define(env)));
  env.SetInstanceData(jobClass);
  for (const JobFunction& function : kJobFunctions) {
    const auto call = [](const Napi::CallbackInfo& info) -> Napi::Value {
      const auto& self = *static_cast<const JobFunction*>(info.Data());
      Options options(info[0], self.name);
      std::unique_ptr<Job> job = self.make(options);
      if (job == nullptr) return info.Env().Undefined();
      return JobObject::start(*info.Env().GetInstanceData<Napi::FunctionReference>(), std::move(job), info[1]);
    };
    exports.Set(function.name, Napi::Function::New(env, call, function.name, const_cast<JobFunction*>(&function)));
  }
}

}  // namespace deltahop::bindings
