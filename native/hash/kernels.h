// The registry of kernels: inner loops that exist once for each set of instructions; the machine decides which runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hash/blake3_kernel.h"
#include "hash/rolling_kernel.h"

namespace deltahop {

/// All inner loops for one set of instructions. Every set gives the same results.
struct Kernels {
  const char* name;
  void (*blake3HashMany)(const blake3kernel::Batch& batch);
  uint32_t (*rollingSum)(const uint8_t* bytes, size_t length, const rollingkernel::Powers& powers);
  size_t (*rollingScan)(rollingkernel::Roll& roll);
};

/// What this machine can run, best first; "portable" is always there and last.
std::span<const Kernels> availableKernels();

/// The set in use: the best one, or what DELTAHOP_KERNELS in the environment names if that is available.
const Kernels& kernels();

/// Changes the set in use, for tests and benchmarks that go through all of them; `set` is one of availableKernels().
void useKernels(const Kernels& set);

}  // namespace deltahop
