#include "memory.h"

#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace deltahop::micro {
namespace {

constexpr size_t kBufferBytes = size_t{256} << 20;
constexpr int kPasses = 8;

double threadSeconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

template <typename Pass>
double best(const Pass& pass) {
  double seconds = 1e9;
  for (int i = 0; i < kPasses; ++i) {
    const double start = threadSeconds();
    pass();
    seconds = std::min(seconds, threadSeconds() - start);
  }
  return static_cast<double>(kBufferBytes) / seconds;
}

}  // namespace

MemoryBandwidth measureMemory() {
  std::vector<uint8_t> from(kBufferBytes, 1);
  std::vector<uint8_t> to(kBufferBytes, 2);
  MemoryBandwidth bandwidth{};
  bandwidth.read = best([&] {
    // memchr for what is not there reads at the speed of the widest loads.
    const void* volatile found = std::memchr(from.data(), 0, from.size());
    (void)found;
  });
  bandwidth.copy = best([&] {
    std::memcpy(to.data(), from.data(), from.size());
    const volatile uint8_t last = to.back();
    (void)last;
  });
  return bandwidth;
}

}  // namespace deltahop::micro
