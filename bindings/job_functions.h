// The functions that start jobs: one per kind of job.
#pragma once

#include <napi.h>

namespace deltahop::bindings {

/// Adds `signatureJob`, `deltaJob`, `patchJob`, `sendJob`, `receiveJob` and `treeDigestJob` to `exports`. Each takes
/// (options, callback) as src/engine/native.ts declares them and gives a running Job.
void defineJobFunctions(Napi::Env env, Napi::Object exports);

}  // namespace deltahop::bindings
