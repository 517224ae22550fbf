// The control group's CPU limit, read from file trees made for the purpose.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "check.h"
#include "cpu/cgroup.h"
#include "cpu/threads.h"

using swa_fast::cpu::cgroup_cpu_limit;

namespace {

// A root directory that goes away again.
class FakeRoot {
 public:
  FakeRoot() {
    std::string pattern = (std::filesystem::temp_directory_path() / "swa_fast_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    root_ = pattern;
  }
  ~FakeRoot() { std::filesystem::remove_all(root_); }
  FakeRoot(const FakeRoot&) = delete;
  FakeRoot& operator=(const FakeRoot&) = delete;

  FakeRoot& write(const std::string& path, const std::string& contents) {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << contents << "\n";
    return *this;
  }
  FakeRoot& groups(const std::string& contents) { return write("proc/self/cgroup", contents); }
  FakeRoot& v2(const std::string& group, const std::string& contents) {
    return write("sys/fs/cgroup" + group + "/cpu.max", contents);
  }
  FakeRoot& v1(const std::string& group, const std::string& quota, const std::string& period) {
    write("sys/fs/cgroup/cpu" + group + "/cpu.cfs_quota_us", quota);
    return write("sys/fs/cgroup/cpu" + group + "/cpu.cfs_period_us", period);
  }
  int limit() const { return cgroup_cpu_limit(root_.string()); }

 private:
  std::filesystem::path root_;
};

int limit_of(const std::string& cpu_max) {
  return FakeRoot().groups("0::/").v2("", cpu_max).limit();
}

}  // namespace

TEST(nothing_there_is_no_limit) {
  CHECK_EQ(FakeRoot().limit(), 0);
  CHECK_EQ(FakeRoot().groups("0::/").limit(), 0);
  CHECK_EQ(FakeRoot().groups("0::/some/group").limit(), 0);
  CHECK_EQ(FakeRoot().groups("").limit(), 0);
  CHECK_EQ(cgroup_cpu_limit("/nowhere/at/all"), 0);
}

TEST(quota_over_period_rounds_up) {
  CHECK_EQ(limit_of("200000 100000"), 2);
  CHECK_EQ(limit_of("150000 100000"), 2);
  CHECK_EQ(limit_of("100001 100000"), 2);
  CHECK_EQ(limit_of("100000 100000"), 1);
  CHECK_EQ(limit_of("1000 100000"), 1);
  CHECK_EQ(limit_of("1 1000000"), 1);
  CHECK_EQ(limit_of("6400000 100000"), 64);
  CHECK_EQ(limit_of("21000 7000"), 3);
}

TEST(what_is_no_quota_is_no_limit) {
  for (const char* const text : {"max 100000", "max", "", "garbage", "garbage 100000", "100000",
                                 "0 100000", "-1 100000", "100000 0", "100000 -5"}) {
    CHECK_WITH(limit_of(text) == 0, text);
  }
}

// More than an int of CPUs is as good as no limit, and no reason to overflow.
TEST(a_vast_quota_limits_nothing) {
  for (const char* const text : {"17592186044415000 1000", "9e300 1", "nan 100000", "inf 1"}) {
    const int limit = limit_of(text);
    CHECK_WITH(limit == 0 || limit > 100000, text + (": " + std::to_string(limit)));
  }
}

TEST(v2_takes_the_tightest_of_the_group_and_its_parents) {
  const auto nested = [](const char* outer, const char* middle, const char* inner) {
    return FakeRoot().groups("0::/a/b").v2("", outer).v2("/a", middle).v2("/a/b", inner).limit();
  };
  CHECK_EQ(nested("max 100000", "max 100000", "300000 100000"), 3);
  CHECK_EQ(nested("max 100000", "300000 100000", "max 100000"), 3);
  CHECK_EQ(nested("300000 100000", "max 100000", "max 100000"), 3);
  CHECK_EQ(nested("800000 100000", "400000 100000", "500000 100000"), 4);
  CHECK_EQ(nested("max 100000", "max 100000", "max 100000"), 0);
}

TEST(v2_does_not_look_at_other_groups) {
  CHECK_EQ(FakeRoot().groups("0::/a").v2("/b", "100000 100000").v2("/a/c", "100000 100000").limit(),
           0);
}

// In a container without a namespace of its own the path names a group that is not mounted there.
TEST(v2_with_an_unmounted_group_still_sees_the_root) {
  CHECK_EQ(FakeRoot().groups("0::/docker/0123").v2("", "200000 100000").limit(), 2);
}

TEST(v1_reads_quota_and_period) {
  const char* const groups = "5:memory:/x\n4:cpu,cpuacct:/a/b\n3:cpuset:/y";
  CHECK_EQ(FakeRoot().groups(groups).v1("/a/b", "250000", "100000").limit(), 3);
  CHECK_EQ(FakeRoot().groups(groups).v1("/a/b", "-1", "100000").limit(), 0);
  CHECK_EQ(
      FakeRoot().groups(groups).v1("/a", "200000", "100000").v1("/a/b", "-1", "100000").limit(), 2);
  CHECK_EQ(FakeRoot().groups(groups).v1("", "100000", "100000").limit(), 1);
  CHECK_EQ(FakeRoot().groups(groups).limit(), 0);
  CHECK_EQ(FakeRoot().groups("4:cpuacct,cpu:/").v1("", "100000", "50000").limit(), 2);
  CHECK_EQ(FakeRoot().groups("4:cpu:/").v1("", "100000", "50000").limit(), 2);
}

TEST(v1_does_not_mistake_other_controllers_for_cpu) {
  CHECK_EQ(FakeRoot().groups("4:cpuset:/\n5:cpuacct:/").v1("", "100000", "100000").limit(), 0);
}

TEST(hybrid_takes_the_tightest) {
  CHECK_EQ(FakeRoot()
               .groups("4:cpu,cpuacct:/a\n0::/b")
               .v1("/a", "400000", "100000")
               .v2("/b", "300000 100000")
               .limit(),
           3);
}

TEST(malformed_lines_are_passed_over) {
  CHECK_EQ(FakeRoot().groups("\n:\nnonsense\n1:2\n0::/").v2("", "200000 100000").limit(), 2);
  CHECK_EQ(FakeRoot().groups("0::").v2("", "200000 100000").limit(), 2);
}

TEST(the_quota_limits_what_the_user_did_not_choose) {
  using swa_fast::cpu::threads_within_quota;
  CHECK_EQ(threads_within_quota(64, false, 0), 64);  // no limit
  CHECK_EQ(threads_within_quota(64, false, 3), 3);
  CHECK_EQ(threads_within_quota(2, false, 3), 2);
  CHECK_EQ(threads_within_quota(64, true, 3), 64);
  CHECK_EQ(threads_within_quota(0, false, 0), 1);
}

TEST(the_real_tree_is_readable) { CHECK(cgroup_cpu_limit() >= 0); }
