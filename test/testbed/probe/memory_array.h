#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>

namespace probe {

// An array of random words and the running checksum of it, both changed all the time. A page that was lost, doubled or
// taken from another moment than its neighbours makes the two disagree.
class MemoryArray {
 public:
  explicit MemoryArray(size_t bytes);

  // Changes `count` words of the first quarter: what a service writes to is mostly the same.
  void change(uint32_t count);
  // Gives every word a new value, so that nothing anybody holds of the array is of use.
  void refill();
  // Whether the checksum of every word is what the changes say it is.
  bool verify();
  // Words changed since the start.
  uint64_t changes();

 private:
  std::mutex mutex_;
  uint64_t* words_;
  size_t size_;
  uint64_t checksum_ = 0;
  uint64_t changes_ = 0;
  uint64_t random_;
};

}  // namespace probe
