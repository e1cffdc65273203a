#pragma once

#include <cstdint>
#include <string>

namespace probe {

// A file that is held open and only ever grows by numbered lines.
class AppendLog {
 public:
  explicit AppendLog(std::string path);
  void append();
  // Reads the whole file by its path and checks each line, that there are as many as were written, and that the path
  // still names the file that is held open.
  bool verify() const;
  uint64_t lines() const { return lines_; }
  // Writes that did not do what they should.
  uint64_t errors() const { return errors_; }

 private:
  std::string path_;
  int fd_;
  uint64_t lines_ = 0;
  uint64_t errors_ = 0;
};

// A file that is held open and has no name any more; a counter in it is raised all the time.
class DeletedFile {
 public:
  explicit DeletedFile(const std::string& path);
  void raise();
  bool verify() const;
  uint64_t count() const { return count_; }

 private:
  int fd_;
  uint64_t count_ = 0;
};

}  // namespace probe
