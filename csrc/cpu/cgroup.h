// What the control group of this process allows.
#pragma once

#include <string>

namespace swa_fast::cpu {

// CPUs' worth of time the control group grants, rounded up; 0 where it sets no limit. `root` is
// where the file system with /proc and /sys is, for tests.
int cgroup_cpu_limit(const std::string& root = "");

}  // namespace swa_fast::cpu
