// What this machine's memory gives to one thread: the measure of the kernels.
#pragma once

namespace deltahop::micro {

/// Bytes a second of thread time, the best of several passes over a buffer that no cache holds.
struct MemoryBandwidth {
  double read;
  double copy;  // bytes copied, each read and written once
};

MemoryBandwidth measureMemory();

}  // namespace deltahop::micro
