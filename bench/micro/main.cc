// micro_benchmarks [--json FILE] [--filter REGEX]: each kernel in GB/s of one core, and as a fraction of the speed at
// which that core reads this machine's memory, measured right before.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace {

struct Row {
  std::string kernel;
  std::string set;
  double bytesPerSecond;
};

class RowReporter : public benchmark::BenchmarkReporter {
 public:
  explicit RowReporter(double memoryRead) : memoryRead_(memoryRead) {}
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      const std::string name = run.benchmark_name();
      const size_t slash = name.rfind('/');
      const Row row{name.substr(0, slash), name.substr(slash + 1), run.counters.at("bytes_per_second")};
      std::printf("%-42s %-9s %7.2f GB/s  %5.2f of memory\n", row.kernel.c_str(), row.set.c_str(),
                  row.bytesPerSecond * 1e-9, row.bytesPerSecond / memoryRead_);
      std::fflush(stdout);
      rows.push_back(row);
    }
  }
  std::vector<Row> rows;

 private:
  double memoryRead_;
};

int usage() {
  std::fputs("usage: micro_benchmarks [--json FILE] [--filter REGEX]\n", stderr);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  std::string jsonPath;
  std::string filter = ".";
  for (int i = 1; i < argc; i += 2) {
    if (i + 1 == argc) return usage();
    if (std::strcmp(argv[i], "--json") == 0)
      jsonPath = argv[i + 1];
    else if (std::strcmp(argv[i], "--filter") == 0)
      filter = argv[i + 1];
    else
      return usage();
  }
  const deltahop::micro::MemoryBandwidth memory = deltahop::micro::measureMemory();
  std::printf("memory: read %.2f GB/s, copied %.2f GB/s\n", memory.read * 1e-9, memory.copy * 1e-9);
  deltahop::micro::registerKernels();
  RowReporter reporter(memory.read);
  benchmark::RunSpecifiedBenchmarks(&reporter, filter);
  if (jsonPath.empty()) return 0;
  std::ofstream json(jsonPath);
  json << "{\"memoryReadGbPerSecond\":" << memory.read * 1e-9 << ",\"memoryCopyGbPerSecond\":" << memory.copy * 1e-9
       << ",\"rows\":[";
  for (size_t i = 0; i < reporter.rows.size(); ++i) {
    const Row& row = reporter.rows[i];
    json << (i == 0 ? "" : ",") << "\n{\"kernel\":\"" << row.kernel << "\",\"kernels\":\"" << row.set
         << "\",\"gbPerSecond\":" << row.bytesPerSecond * 1e-9
         << ",\"fractionOfMemoryRead\":" << row.bytesPerSecond / memory.read << "}";
  }
  json << "\n]}\n";
  return json.good() ? 0 : 1;
}
