// Work that two threads share.
#pragma once

#include <atomic>
#include <exception>
#include <new>
#include <thread>

#include "base/result.h"

namespace deltahop {

/// Runs `work` on two threads, this one and another, and returns when both have ended. More would take the cores away
/// from the rest of a transfer. kLimit if memory ran out in one.
template <typename Work>
Status onTwoThreads(const Work& work) {
  std::atomic<bool> outOfMemory = false;
  const auto guarded = [&] {
    try {
      work();
    } catch (const std::bad_alloc&) {
      outOfMemory = true;
    }
  };
  std::thread other;
  try {
    other = std::thread(guarded);
  } catch (const std::exception&) {
    // No thread to be had: this one does it all.
  }
  guarded();
  if (other.joinable()) other.join();
  if (outOfMemory) return Error{Code::kLimit, "out of memory", 0};
  return {};
}

}  // namespace deltahop
