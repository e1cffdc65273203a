#include "server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace probe {
namespace {

constexpr size_t kLongestLine = 4096;

}  // namespace

Server::Server(uint16_t port, Answer answer) : answer_(std::move(answer)) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int on = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || listen(listener_, 16) != 0) {
    std::perror("probe: listen");
    _exit(70);
  }
}

void Server::addTo(std::vector<pollfd>& waiting) const {
  waiting.push_back({listener_, POLLIN, 0});
  for (const auto& [fd, connection] : connections_) waiting.push_back({fd, POLLIN, 0});
}

void Server::handle(const pollfd& event) {
  if (event.revents == 0) return;
  if (event.fd == listener_) {
    accept();
    return;
  }
  const auto found = connections_.find(event.fd);
  if (found == connections_.end() || read(event.fd, found->second)) return;
  connections_.erase(found);
  close(event.fd);
}

void Server::accept() {
  const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) return;
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  connections_.emplace(fd, Connection{});
}

bool Server::read(int fd, Connection& connection) {
  std::array<char, 4096> bytes{};
  const ssize_t got = recv(fd, bytes.data(), bytes.size(), MSG_DONTWAIT);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0) return false;
  connection.input.append(bytes.data(), static_cast<size_t>(got));
  for (;;) {
    const size_t end = connection.input.find('\n');
    if (end == std::string::npos) return connection.input.size() < kLongestLine;
    const std::string line = connection.input.substr(0, end);
    connection.input.erase(0, end + 1);
    const std::string text = reply(connection, line) + "\n";
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t wrote = send(fd, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (wrote <= 0) return false;
      sent += static_cast<size_t>(wrote);
    }
  }
}

std::string Server::reply(Connection& connection, const std::string& line) {
  if (!std::string_view(line).starts_with("echo ")) return answer_(line);
  const uint64_t number = std::strtoull(line.c_str() + 5, nullptr, 10);
  if (connection.count > 0 && number != connection.next) ++gaps_;
  connection.next = number + 1;
  ++echoes_;
  return line + " " + std::to_string(connection.count++);
}

}  // namespace probe
