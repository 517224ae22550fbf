#include "cpu/cgroup.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace swa_fast::cpu {
namespace {

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

int cpus_of_quota(double quota, double period) {
  if (!(quota > 0 && period > 0)) return 0;  // also what is not a number
  const double cpus = std::ceil(quota / period);
  return cpus < INT_MAX ? static_cast<int>(cpus) : 0;
}

void tighten(int* limit, int candidate) {
  if (candidate > 0) *limit = *limit == 0 ? candidate : std::min(*limit, candidate);
}

// A limit holds for everything below the group that sets it: visit the group and its parents.
template <class ReadLimit>
void visit_upwards(std::string group, const ReadLimit& read_limit) {
  for (;;) {
    read_limit(group == "/" ? std::string() : group);
    const size_t slash = group.find_last_of('/');
    if (slash == std::string::npos || group.size() <= 1) return;
    group = slash == 0 ? "/" : group.substr(0, slash);
  }
}

}  // namespace

int cgroup_cpu_limit(const std::string& root) {
  int limit = 0;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    // "0::/path" in version 2, "N:cpu,cpuacct:/path" in version 1.
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") {
      visit_upwards(path, [&](const std::string& group) {
        std::istringstream words(read_line(root + "/sys/fs/cgroup" + group + "/cpu.max"));
        std::string quota;
        double period = 0;
        if (words >> quota >> period && quota != "max") {
          tighten(&limit, cpus_of_quota(std::atof(quota.c_str()), period));
        }
      });
    } else if (controllers.find(",cpu,") != std::string::npos) {
      visit_upwards(path, [&](const std::string& group) {
        const std::string folder = root + "/sys/fs/cgroup/cpu" + group;
        const double quota = std::atof(read_line(folder + "/cpu.cfs_quota_us").c_str());
        const double period = std::atof(read_line(folder + "/cpu.cfs_period_us").c_str());
        tighten(&limit, cpus_of_quota(quota, period));
      });
    }
  }
  return limit;
}

}  // namespace swa_fast::cpu
