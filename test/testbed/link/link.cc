// A link between two network namespaces: carries IP packets between two TUN devices with a rate, a delay and a loss,
// and can be cut and mended. It stands in for netem where the kernel has none.
//
//   link --netns-a PATH --address-a ADDR --device-a NAME --netns-b PATH --address-b ADDR --device-b NAME
//        [--rate-bps N] [--delay-ms X] [--loss-percent X]
//
// The figures hold for each direction. Commands on stdin, one a line, each answered by one JSON line on stdout:
//   cut | mend | set [rateBps=N] [delayMs=X] [lossPercent=X] | stats
// It ends when stdin closes, and so with its parent however that one ended; the devices vanish with it.
//
// A direction is what a router's output is: a bounded queue (drop tail), a wire that takes length * 8 / rate for each
// packet, and a delay. Times are computed, not slept for: a late wake-up delays a packet but never lowers the rate, and
// an idle wire saves up nothing, so there is no burst after a pause.

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <deque>
#include <iostream>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr int kMtu = 1500;
constexpr int64_t kNanosPerSecond = 1'000'000'000;
constexpr int64_t kNever = INT64_MAX;
// A router's queue: 100 ms of its wire, as is usual, but never less than a few dozen packets.
constexpr int64_t kQueueNanos = kNanosPerSecond / 10;
constexpr int64_t kQueueBytesMin = 64 * 1024;

[[noreturn]] void die(const std::string& what) {
  std::cerr << "link: " << what << ": " << strerror(errno) << "\n";
  exit(1);
}

int64_t nowNanos() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * kNanosPerSecond + time.tv_nsec;
}

struct Settings {
  double rateBps = 50e6;
  double delayMs = 10;
  double lossPercent = 0;
  bool cut = false;
};

struct Counters {
  uint64_t offeredPackets = 0;
  uint64_t offeredBytes = 0;
  uint64_t carriedPackets = 0;
  uint64_t carriedBytes = 0;
  uint64_t droppedFull = 0;
  uint64_t droppedLost = 0;
  uint64_t droppedCut = 0;
};

// One way through the link, on a thread of its own.
class Direction {
 public:
  Direction(int from, int to, uint64_t seed) : from_(from), to_(to), random_(seed) {
    wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake_ < 0) die("eventfd");
  }

  void start() {
    std::thread([this] { run(); }).detach();
  }

  // Takes effect at once: packets already on the wire keep their times, those waiting in the queue go at the new rate,
  // and a cut loses both.
  void apply(const Settings& settings) {
    {
      const std::lock_guard lock(mutex_);
      settings_ = settings;
    }
    const uint64_t one = 1;
    if (write(wake_, &one, sizeof one) < 0 && errno != EAGAIN) die("eventfd write");
  }

  Counters counters() {
    const std::lock_guard lock(mutex_);
    return counters_;
  }

 private:
  struct Packet {
    int64_t arrived = 0;
    int64_t due = kNever;  // when it leaves the stage it is in; kNever while others wait before it
    uint16_t length = 0;
    std::array<uint8_t, kMtu> data;
  };
  using Stage = std::deque<Packet*>;

  [[noreturn]] void run() {
    // Timer slack is 50 us by default: as long as a packet takes at 240 Mbit/s.
    prctl(PR_SET_TIMERSLACK, 1);
    sched_param priority{};
    priority.sched_priority = 1;
    // Best effort: without the right to it the link is only less precise on a busy machine.
    pthread_setschedparam(pthread_self(), SCHED_FIFO, &priority);

    while (true) {
      int64_t next = kNever;
      {
        const std::lock_guard lock(mutex_);
        next = advance(nowNanos());
      }
      std::array<pollfd, 2> polled{{{from_, POLLIN, 0}, {wake_, POLLIN, 0}}};
      timespec wait{};
      if (next != kNever) {
        const int64_t left = std::max<int64_t>(0, next - nowNanos());
        wait = {left / kNanosPerSecond, left % kNanosPerSecond};
      }
      if (ppoll(polled.data(), polled.size(), next == kNever ? nullptr : &wait, nullptr) < 0 && errno != EINTR) {
        die("ppoll");
      }
      if (polled[1].revents != 0) {
        uint64_t ignored = 0;
        if (read(wake_, &ignored, sizeof ignored) < 0 && errno != EAGAIN) die("eventfd read");
      }
      if (polled[0].revents != 0) receive();
    }
  }

  // Moves every packet that is due one stage on; returns when the next one is due.
  int64_t advance(int64_t now) {
    if (settings_.cut) {
      counters_.droppedCut += queue_.size() + wire_.size();
      drop(queue_);
      drop(wire_);
      queuedBytes_ = 0;
      return kNever;
    }
    while (!queue_.empty()) {
      Packet* packet = queue_.front();
      if (packet->due == kNever) {
        packet->due = std::max(wireFreeAt_, packet->arrived) + serialisationNanos(packet->length);
      }
      if (packet->due > now) break;
      wireFreeAt_ = packet->due;
      queue_.pop_front();
      queuedBytes_ -= packet->length;
      if (lossy_(random_) < settings_.lossPercent) {
        counters_.droppedLost++;
        free_.push_back(packet);
        continue;
      }
      packet->due += static_cast<int64_t>(settings_.delayMs * 1e6);
      // A delay made shorter by `set` must not let a packet overtake.
      if (!wire_.empty()) packet->due = std::max(packet->due, wire_.back()->due);
      wire_.push_back(packet);
    }
    while (!wire_.empty() && wire_.front()->due <= now) {
      Packet* packet = wire_.front();
      wire_.pop_front();
      // A device that is down or full refuses it: as good as lost, and TCP's business.
      if (write(to_, packet->data.data(), packet->length) == packet->length) {
        counters_.carriedPackets++;
        counters_.carriedBytes += packet->length;
      }
      free_.push_back(packet);
    }
    return std::min(queue_.empty() ? kNever : queue_.front()->due, wire_.empty() ? kNever : wire_.front()->due);
  }

  void receive() {
    const std::lock_guard lock(mutex_);
    while (true) {
      Packet* packet = take();
      const ssize_t length = read(from_, packet->data.data(), packet->data.size());
      if (length <= 0) {
        free_.push_back(packet);
        if (length < 0 && errno != EAGAIN && errno != EINTR && errno != EIO) die("read from the device");
        return;
      }
      counters_.offeredPackets++;
      counters_.offeredBytes += static_cast<uint64_t>(length);
      if (settings_.cut) {
        counters_.droppedCut++;
        free_.push_back(packet);
        continue;
      }
      if (queuedBytes_ + length > queueBytesMax()) {
        counters_.droppedFull++;
        free_.push_back(packet);
        continue;
      }
      packet->length = static_cast<uint16_t>(length);
      packet->arrived = nowNanos();
      packet->due = kNever;
      queuedBytes_ += length;
      queue_.push_back(packet);
    }
  }

  int64_t serialisationNanos(int length) const {
    return static_cast<int64_t>(static_cast<double>(length) * 8 * kNanosPerSecond / settings_.rateBps);
  }

  int64_t queueBytesMax() const {
    const double bytes = settings_.rateBps / 8 * (static_cast<double>(kQueueNanos) / kNanosPerSecond);
    return std::max(kQueueBytesMin, static_cast<int64_t>(bytes));
  }

  Packet* take() {
    if (free_.empty()) return new Packet;
    Packet* packet = free_.back();
    free_.pop_back();
    return packet;
  }

  void drop(Stage& stage) {
    free_.insert(free_.end(), stage.begin(), stage.end());
    stage.clear();
  }

  const int from_;
  const int to_;
  int wake_ = -1;
  std::mutex mutex_;
  Settings settings_;
  Counters counters_;
  Stage queue_;  // waits for the wire
  Stage wire_;   // sent, on its way
  std::vector<Packet*> free_;
  int64_t queuedBytes_ = 0;
  int64_t wireFreeAt_ = 0;
  std::mt19937_64 random_;
  std::uniform_real_distribution<double> lossy_{0, 100};
};

struct End {
  std::string netns;
  std::string address;
  std::string device;
};

void control(int socket, unsigned long request, void* argument, const char* what) {
  if (ioctl(socket, request, argument) < 0) die(what);
}

void setAddress(int socket, ifreq& request, unsigned long which, const std::string& text) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  errno = EINVAL;
  if (inet_pton(AF_INET, text.c_str(), &address.sin_addr) != 1) die("address " + text);
  memcpy(&request.ifr_addr, &address, sizeof address);
  control(socket, which, &request, "address of the device");
}

// A TUN device belongs to the namespace of the thread that opens it; the descriptor works from anywhere.
// Naming the other end's address makes the kernel add the route to it.
int openTun(const End& end, const End& peer) {
  const int netns = open(end.netns.c_str(), O_RDONLY | O_CLOEXEC);
  if (netns < 0) die(end.netns);
  if (setns(netns, CLONE_NEWNET) < 0) die("setns " + end.netns);
  close(netns);

  const int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (tun < 0) die("/dev/net/tun");
  ifreq request{};
  strncpy(request.ifr_name, end.device.c_str(), IFNAMSIZ - 1);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  control(tun, TUNSETIFF, &request, "TUNSETIFF");

  // No IPv6: its neighbour discovery would be counted as traffic. /proc/sys/net is that of the reader's namespace.
  const std::string noIpv6 = "/proc/sys/net/ipv6/conf/" + end.device + "/disable_ipv6";
  if (const int file = open(noIpv6.c_str(), O_WRONLY | O_CLOEXEC); file >= 0) {
    if (write(file, "1", 1) != 1) die(noIpv6);
    close(file);
  }

  const int inet = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (inet < 0) die("socket");
  request.ifr_mtu = kMtu;
  control(inet, SIOCSIFMTU, &request, "SIOCSIFMTU");

  setAddress(inet, request, SIOCSIFADDR, end.address);
  setAddress(inet, request, SIOCSIFDSTADDR, peer.address);

  request.ifr_flags = IFF_UP | IFF_RUNNING;
  control(inet, SIOCSIFFLAGS, &request, "SIOCSIFFLAGS");
  close(inet);
  return tun;
}

// Sets one named figure; false if the name or the number is not one.
bool setFigure(Settings& settings, std::string_view name, std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0)) return false;
  if (name == "rateBps" && value >= 1) {
    settings.rateBps = value;
  } else if (name == "delayMs") {
    settings.delayMs = value;
  } else if (name == "lossPercent" && value <= 100) {
    settings.lossPercent = value;
  } else {
    return false;
  }
  return true;
}

void answerCounters(std::ostream& out, const char* name, const Counters& counters) {
  out << "\"" << name << "\":{\"offeredPackets\":" << counters.offeredPackets
      << ",\"offeredBytes\":" << counters.offeredBytes << ",\"carriedPackets\":" << counters.carriedPackets
      << ",\"carriedBytes\":" << counters.carriedBytes << ",\"droppedFull\":" << counters.droppedFull
      << ",\"droppedLost\":" << counters.droppedLost << ",\"droppedCut\":" << counters.droppedCut << "}";
}

}  // namespace

int main(int argc, char** argv) {
  End a;
  End b;
  Settings settings;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    bool known = true;
    if (name == "--netns-a") {
      a.netns = value;
    } else if (name == "--netns-b") {
      b.netns = value;
    } else if (name == "--address-a") {
      a.address = value;
    } else if (name == "--address-b") {
      b.address = value;
    } else if (name == "--device-a") {
      a.device = value;
    } else if (name == "--device-b") {
      b.device = value;
    } else if (name == "--rate-bps") {
      known = setFigure(settings, "rateBps", value);
    } else if (name == "--delay-ms") {
      known = setFigure(settings, "delayMs", value);
    } else if (name == "--loss-percent") {
      known = setFigure(settings, "lossPercent", value);
    } else {
      known = false;
    }
    if (!known) {
      std::cerr << "link: cannot use " << name << " " << value << "\n";
      return 2;
    }
  }
  for (const End* end : {&a, &b}) {
    if (end->netns.empty() || end->address.empty() || end->device.empty()) {
      std::cerr << "link: a namespace, an address and a device are needed for each end\n";
      return 2;
    }
  }

  const int tunA = openTun(a, b);
  const int tunB = openTun(b, a);
  // Never destroyed: their threads run until the process ends. Seeds are fixed, so that a loss pattern comes again.
  auto& forth = *new Direction(tunA, tunB, 1);
  auto& back = *new Direction(tunB, tunA, 2);
  const auto applyToBoth = [&] {
    forth.apply(settings);
    back.apply(settings);
  };
  applyToBoth();
  forth.start();
  back.start();

  std::cout << "{\"type\":\"ready\"}" << std::endl;
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    bool understood = true;
    if (command == "cut" || command == "mend") {
      settings.cut = command == "cut";
      applyToBoth();
    } else if (command == "set") {
      Settings wanted = settings;
      for (std::string word; understood && words >> word;) {
        const size_t equals = word.find('=');
        understood = equals != std::string::npos && setFigure(wanted, std::string_view(word).substr(0, equals),
                                                              std::string_view(word).substr(equals + 1));
      }
      if (understood) {
        settings = wanted;
        applyToBoth();
      }
    } else if (command == "stats") {
      std::cout << "{\"type\":\"stats\",\"cut\":" << (settings.cut ? "true" : "false") << ",";
      answerCounters(std::cout, "aToB", forth.counters());
      std::cout << ",";
      answerCounters(std::cout, "bToA", back.counters());
      std::cout << "}" << std::endl;
      continue;
    } else {
      understood = false;
    }
    std::cout << (understood ? "{\"type\":\"ok\"}" : "{\"type\":\"error\"}") << std::endl;
  }
  // Not exit(): the threads still use what static destructors would take away.
  _exit(0);
}
