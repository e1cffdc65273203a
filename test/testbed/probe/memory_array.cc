#include "memory_array.h"

#include <sys/mman.h>
#include <sys/random.h>

#include <cstdlib>

namespace probe {
namespace {

constexpr uint64_t kStep = 0x9e3779b97f4a7c15ULL;

// splitmix64's finaliser (Steele, Lea, Flood 2014): ties a word to its place, so that two swapped pages show.
uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

uint64_t placed(size_t index, uint64_t word) {
  return mix(word + 0x9e3779b97f4a7c15ULL * (index + 1));
}

}  // namespace

MemoryArray::MemoryArray(size_t bytes) : size_(bytes / sizeof(uint64_t)) {
  // Not from the heap: one mapping of its own, so that its pages lie in a row in the images.
  void* mapping = mmap(nullptr, size_ * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED || getrandom(&random_, sizeof random_, 0) != sizeof random_) abort();
  words_ = static_cast<uint64_t*>(mapping);
  refill();
}

void MemoryArray::refill() {
  const std::lock_guard lock(mutex_);
  checksum_ = 0;
  for (size_t i = 0; i < size_; ++i) {
    words_[i] = mix(random_ += kStep);
    checksum_ += placed(i, words_[i]);
  }
}

void MemoryArray::change(uint32_t count) {
  const std::lock_guard lock(mutex_);
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t word = mix(random_ += kStep);
    const size_t index = mix(word) % (size_ / 4);
    checksum_ += placed(index, word) - placed(index, words_[index]);
    words_[index] = word;
    ++changes_;
  }
}

bool MemoryArray::verify() {
  const std::lock_guard lock(mutex_);
  uint64_t sum = 0;
  for (size_t i = 0; i < size_; ++i) sum += placed(i, words_[i]);
  return sum == checksum_;
}

uint64_t MemoryArray::changes() {
  const std::lock_guard lock(mutex_);
  return changes_;
}

}  // namespace probe
