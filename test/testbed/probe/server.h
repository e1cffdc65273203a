#pragma once

#include <poll.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace probe {

// A TCP server of lines. `echo N` is answered by `echo N M`, where M counts the echoes of this connection from 0; a
// number that does not follow the one before is counted as a gap. Every other line is answered by `answer(line)`.
class Server {
 public:
  using Answer = std::function<std::string(const std::string& line)>;

  Server(uint16_t port, Answer answer);

  // Adds what it waits for.
  void addTo(std::vector<pollfd>& waiting) const;
  void handle(const pollfd& event);

  uint64_t echoes() const { return echoes_; }
  uint64_t gaps() const { return gaps_; }

 private:
  struct Connection {
    std::string input;
    uint64_t next = 0;
    uint64_t count = 0;
  };

  void accept();
  // False once the connection has ended.
  bool read(int fd, Connection& connection);
  std::string reply(Connection& connection, const std::string& line);

  int listener_;
  Answer answer_;
  std::map<int, Connection> connections_;
  uint64_t echoes_ = 0;
  uint64_t gaps_ = 0;
};

}  // namespace probe
