#include "hash/kernels.h"

#include <atomic>
#include <cstdlib>
#include <string_view>
#include <vector>

namespace deltahop {
namespace {

const Kernels& initialKernels() {
  const char* wanted = std::getenv("DELTAHOP_KERNELS");
  for (const Kernels& set : availableKernels()) {
    if (wanted != nullptr && std::string_view(wanted) == set.name) return set;
  }
  return availableKernels().front();
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> set = &initialKernels();
  return set;
}

}  // namespace

std::span<const Kernels> availableKernels() {
  static const std::vector<Kernels> available = [] {
    using namespace blake3kernel;
    using namespace rollingkernel;
    std::vector<Kernels> found;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) {
      found.push_back({"avx512", hashManyAvx512, sumAvx2, rollAvx512});
    }
    if (avx2) found.push_back({"avx2", hashManyAvx2, sumAvx2, rollAvx2});
    if (__builtin_cpu_supports("sse4.1")) found.push_back({"sse4.1", hashManySse41, sumPortable, rollPortable});
#elif defined(__aarch64__)
    found.push_back({"neon", hashManyNeon, sumPortable, rollPortable});
#endif
    found.push_back({"portable", hashManyPortable, sumPortable, rollPortable});
    return found;
  }();
  return available;
}

const Kernels& kernels() {
  return *current().load(std::memory_order_relaxed);
}

void useKernels(const Kernels& set) {
  current().store(&set, std::memory_order_relaxed);
}

}  // namespace deltahop
