// The first process of a test container: keeps state of every kind that a migration could lose, changes it all the
// time, and says over TCP whether all of it is still consistent.
//
// Usage: probe PORT MEMORY_MIB CHANGES
//   MEMORY_MIB  size of the array in memory
//   CHANGES     words of it that are changed every 10 ms
// or:    probe hold     changes nothing and waits to be told to stop
//
// Lines that it answers: `echo N`, `state` (counters), `verify` (checks everything, takes a moment),
// `refill` (gives the whole array new content).
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "memory_array.h"
#include "open_files.h"
#include "root_changes.h"
#include "server.h"

namespace probe {
namespace {

constexpr int kTickMs = 20;
constexpr int kMessageMs = 5;

void require(bool good, const char* what) {
  if (good) return;
  std::perror(what);
  _exit(70);
}

// The signals that end the probe, blocked, to be waited for.
sigset_t blockEndingSignals() {
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  sigaddset(&ending, SIGPWR);
  require(sigprocmask(SIG_BLOCK, &ending, nullptr) == 0, "sigprocmask");
  return ending;
}

void hold() {
  const sigset_t ending = blockEndingSignals();
  int signal = 0;
  sigwait(&ending, &signal);
}

// Numbered messages from a second process, paced by its interval timer: they stop if the timer is lost, and are out of
// step if the pipe's content is lost or doubled.
class NumberedPipe {
 public:
  NumberedPipe() {
    int ends[2];
    require(pipe(ends) == 0, "pipe");
    const pid_t child = fork();
    require(child >= 0, "fork");
    if (child == 0) {
      close(ends[0]);
      sendForever(ends[1]);
    }
    close(ends[1]);
    reader_ = ends[0];
  }

  // Takes what is there but for the last message, so that a checkpoint always finds some on their way.
  void drain() {
    int waiting = 0;
    if (ioctl(reader_, FIONREAD, &waiting) != 0) return;
    for (; waiting >= 2 * static_cast<int>(sizeof(uint64_t)); waiting -= sizeof(uint64_t)) {
      uint64_t number = 0;
      if (read(reader_, &number, sizeof number) != sizeof number) return;
      if (number != messages_) ++gaps_;
      messages_ = number + 1;
    }
  }

  uint64_t messages() const { return messages_; }
  uint64_t gaps() const { return gaps_; }

 private:
  [[noreturn]] static void sendForever(int writer) {
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    sigprocmask(SIG_BLOCK, &alarm, nullptr);
    const itimerval every{{0, kMessageMs * 1000}, {0, kMessageMs * 1000}};
    require(setitimer(ITIMER_REAL, &every, nullptr) == 0, "setitimer");
    for (uint64_t number = 0;; ++number) {
      int signal = 0;
      sigwait(&alarm, &signal);
      if (write(writer, &number, sizeof number) != sizeof number) _exit(0);
    }
  }

  int reader_;
  uint64_t messages_ = 0;
  uint64_t gaps_ = 0;
};

// The service as a whole; its loop ends when it is told to stop.
class Probe {
 public:
  Probe(uint16_t port, size_t memoryBytes, uint32_t changes)
      : changesPerStep_(changes),
        memory_(memoryBytes),
        log_("/data/log"),
        deleted_("/data/deleted"),
        server_(port, [this](const std::string& line) { return answer(line); }) {
    // Tells a service that moved from one that was started again.
    require(getrandom(&life_, sizeof life_, 0) == sizeof life_, "getrandom");
    timer_ = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    const itimerspec every{{0, kTickMs * 1'000'000}, {0, kTickMs * 1'000'000}};
    require(timer_ >= 0 && timerfd_settime(timer_, 0, &every, nullptr) == 0, "timerfd");
    // Before any thread is made: they all inherit the mask.
    const sigset_t ending = blockEndingSignals();
    signals_ = signalfd(-1, &ending, SFD_CLOEXEC);
    require(signals_ >= 0, "signalfd");
  }

  void run() {
    std::thread([this] { changeMemory(); }).detach();
    std::vector<pollfd> waiting;
    for (;;) {
      waiting.assign({{signals_, POLLIN, 0}, {timer_, POLLIN, 0}});
      server_.addTo(waiting);
      if (poll(waiting.data(), waiting.size(), -1) <= 0) continue;
      if (waiting[0].revents != 0) return;
      if (waiting[1].revents != 0) tick();
      for (size_t i = 2; i < waiting.size(); ++i) server_.handle(waiting[i]);
    }
  }

 private:
  void tick() {
    uint64_t expired = 0;
    if (read(timer_, &expired, sizeof expired) != sizeof expired) return;
    ticks_ += expired;
    showTick();
    pipe_.drain();
    log_.append();
    deleted_.raise();
  }

  // In the process's name, where a watcher outside of the container sees which copy runs.
  void showTick() const {
    char name[16];
    std::snprintf(name, sizeof name, "tick %" PRIu64, ticks_);
    prctl(PR_SET_NAME, name);
  }

  void changeMemory() {
    for (;;) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      memory_.change(changesPerStep_);
    }
  }

  std::string answer(const std::string& line) {
    if (line == "state") return state();
    if (line == "verify") return verify();
    if (line == "refill") {
      memory_.refill();
      return "{}";
    }
    return "{\"error\":\"unknown line\"}";
  }

  std::string state() {
    char text[512];
    std::snprintf(text, sizeof text,
                  "{\"life\":\"%016" PRIx64 "\",\"ticks\":%" PRIu64 ",\"memoryChanges\":%" PRIu64
                  ",\"pipeMessages\":%" PRIu64 ",\"pipeGaps\":%" PRIu64 ",\"logLines\":%" PRIu64
                  ",\"logErrors\":%" PRIu64 ",\"deletedCount\":%" PRIu64 ",\"echoes\":%" PRIu64 ",\"echoGaps\":%" PRIu64
                  "}",
                  life_, ticks_, memory_.changes(), pipe_.messages(), pipe_.gaps(), log_.lines(), log_.errors(),
                  deleted_.count(), server_.echoes(), server_.gaps());
    return text;
  }

  std::string verify() {
    const auto word = [](bool good) { return std::string(good ? "true" : "false"); };
    return "{\"memory\":" + word(memory_.verify()) + ",\"pipe\":" + word(pipe_.gaps() == 0) +
           ",\"log\":" + word(log_.verify() && log_.errors() == 0) + ",\"deleted\":" + word(deleted_.verify()) +
           ",\"echo\":" + word(server_.gaps() == 0) + ",\"root\":" + verifyRootChanges() + "}";
  }

  uint64_t life_ = 0;
  uint64_t ticks_ = 0;
  const uint32_t changesPerStep_;
  // Made first: its process must not inherit the files and sockets of the others.
  NumberedPipe pipe_;
  MemoryArray memory_;
  AppendLog log_;
  DeletedFile deleted_;
  Server server_;
  int timer_;
  int signals_;
};

}  // namespace
}  // namespace probe

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "hold") {
    probe::hold();
    return 0;
  }
  if (argc != 4) {
    std::fprintf(stderr, "usage: probe PORT MEMORY_MIB CHANGES | probe hold\n");
    return 64;
  }
  // As a container's first process it inherits every orphan: nobody waits for them.
  signal(SIGCHLD, SIG_IGN);
  umask(022);
  probe::makeRootChanges();
  probe::Probe service(static_cast<uint16_t>(std::atoi(argv[1])), static_cast<size_t>(std::atoi(argv[2])) * 1024 * 1024,
                       static_cast<uint32_t>(std::atoi(argv[3])));
  service.run();
  return 0;
}
