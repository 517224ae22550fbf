// Copies to host memory beside the devices' work: what is queued where, what waits for what, and
// what happens where a driver lacks a call, or fails.
#include "cuda/side_copies.h"

#include <sys/wait.h>
#include <unistd.h>

#include <numeric>
#include <string>
#include <vector>

#include "check.h"
#include "core/error.h"
#include "host_grid.h"

using swa_fast::Error;
using swa_fast::cuda::kLargeArguments;
using swa_fast::cuda::SideCopies;
using swa_fast::cuda::Streams;

namespace {

using fake_transfers::journal;

void* stream(uintptr_t number) { return reinterpret_cast<void*>(number); }

Streams on_streams(uintptr_t of_device_0, uintptr_t of_device_1 = 0) {
  Streams streams;
  streams.set({0, stream(of_device_0), false});
  streams.set({1, stream(of_device_1), false});
  return streams;
}

// Tensors, and where their copies go.
struct Memory {
  std::vector<std::vector<char>> from, to;

  explicit Memory(const std::vector<size_t>& sizes) {
    char next = 1;
    for (const size_t size : sizes) {
      from.emplace_back(size);
      std::iota(from.back().begin(), from.back().end(), next++);
      to.emplace_back(size);
    }
  }

  // One on device 1 for every odd index, if there are two devices.
  std::vector<SideCopies::Copy> copies(int devices = 1) {
    std::vector<SideCopies::Copy> all;
    for (size_t i = 0; i < from.size(); ++i) {
      all.push_back({static_cast<int>(i) % devices, to[i].data(), from[i].data(), from[i].size()});
    }
    return all;
  }
};

std::string text(const std::vector<std::string>& lines) {
  std::string all;
  for (const std::string& line : lines) all += line + "\n";
  return all;
}

std::string taken_calls() {
  std::string all = text(journal.calls);
  journal.calls = {"later"};
  return all;
}

}  // namespace

TEST(copies_follow_the_work_so_far_and_nothing_waits_for_them) {
  for (const bool batches : {true, false}) {
    const host_grid::Installed installed(kLargeArguments, batches);
    Memory memory({3, 5});
    SideCopies side;
    side.start(memory.copies(), on_streams(7));
    const std::string copied = batches ? "batch of 2 on s1\n" : "copy 3 on s1\ncopy 5 on s1\n";
    CHECK_EQ(taken_calls(), "is 7 capturing\nmake s\nmake e\nrecord e2 on 7\ns1 waits for e2\n" +
                                copied + "record e2 on s1\n");
    CHECK(memory.to != memory.from);
    side.hold_back(on_streams(8));
    CHECK_EQ(taken_calls(), "later\n8 waits for e2\n");
    CHECK(memory.to != memory.from);
    side.wait();
    CHECK_EQ(taken_calls(), "later\nhost waits for e2\n");
    CHECK(memory.to == memory.from);
    CHECK(host_grid::record.entered.empty());
    CHECK(host_grid::record.waits.empty());
  }
  CHECK_EQ(journal.made, 0);
}

TEST(the_stream_and_the_event_are_made_once) {
  const host_grid::Installed installed;
  Memory memory({4});
  {
    SideCopies side;
    for (int i = 0; i < 3; ++i) {
      side.start(memory.copies(), on_streams(7));
      side.wait();
    }
    CHECK_EQ(journal.made, 2);
    side.start({}, on_streams(7));  // nothing on any device
    taken_calls();
    side.hold_back(on_streams(7));
    side.wait();
    CHECK_EQ(taken_calls(), "later\n");
  }
  CHECK_EQ(journal.made, 0);
}

TEST(each_device_has_a_stream_of_its_own) {
  const host_grid::Installed installed;
  Memory memory({1, 2, 3, 4, 5});
  SideCopies side;
  side.start(memory.copies(2), on_streams(7, 9));
  CHECK_EQ(taken_calls(),
           "is 7 capturing\nis 9 capturing\n"
           "make s\nmake e\nrecord e2 on 7\ns1 waits for e2\nbatch of 3 on s1\nrecord e2 on s1\n"
           "make s\nmake e\nrecord e4 on 9\ns3 waits for e4\nbatch of 2 on s3\nrecord e4 on s3\n");
  // A writer's streams are those that are current on the devices of the values.
  side.hold_back(on_streams(7, 11));
  CHECK_EQ(taken_calls(), "later\n7 waits for e2\n11 waits for e4\n");
  side.wait();
  CHECK(memory.to == memory.from);
}

TEST(a_driver_that_refuses_batches_gets_single_copies_from_then_on) {
  const host_grid::Installed installed;
  journal.batch_is_unsupported = true;
  Memory memory({3, 5});
  SideCopies side;
  side.start(memory.copies(), on_streams(7));
  side.wait();
  CHECK(memory.to == memory.from);
  taken_calls();
  side.start(memory.copies(), on_streams(7));
  CHECK_EQ(taken_calls(),
           "later\nis 7 capturing\nrecord e2 on 7\ns1 waits for e2\ncopy 3 on s1\ncopy 5 on s1\n"
           "record e2 on s1\n");
  side.wait();
}

TEST(a_stream_that_is_captured_is_refused_before_anything_is_queued) {
  const host_grid::Installed installed;
  Memory memory({3, 5});
  SideCopies side;
  journal.capturing = stream(9);
  const Error error = CHECK_THROWS(Error, side.start(memory.copies(2), on_streams(7, 9)));
  CHECK_EQ(std::string(error.what()),
           "averages in host memory cannot be updated inside a CUDA graph: call update() after the "
           "replay");
  CHECK_EQ(taken_calls(), "is 7 capturing\nis 9 capturing\n");
  journal.capturing = nullptr;
  side.start(memory.copies(2), on_streams(7, 9));
  side.wait();
  CHECK(memory.to == memory.from);
}

TEST(where_cuda_fails_the_error_names_it_and_nothing_is_left_under_way) {
  for (const bool batches : {true, false}) {
    for (const std::string call :
         {"is ", "make s", "make e", "record e4", "s3 waits", batches ? "batch of 2" : "copy 4"}) {
      const host_grid::Installed installed(kLargeArguments, batches);
      Memory memory({1, 2, 3, 4});
      {
        SideCopies side;
        journal.fails = call;
        const Error error = CHECK_THROWS(Error, side.start(memory.copies(2), on_streams(7, 9)));
        CHECK(std::string(error.what()).find(" failed: cudaErrorOfTests (700)") !=
              std::string::npos);
        CHECK(journal.queued.empty());  // the caller may give the memory back
        CHECK(host_grid::record.entered.empty());
        taken_calls();
        side.hold_back(on_streams(7, 9));
        side.wait();
        CHECK_EQ(taken_calls(), "later\n");
        journal.fails.clear();
        side.start(memory.copies(2), on_streams(7, 9));
        side.wait();
        CHECK(memory.to == memory.from);
      }
      CHECK_EQ(journal.made, 0);
    }
  }
}

TEST(a_failure_after_the_start_is_told_by_whoever_waits) {
  const host_grid::Installed installed;
  Memory memory({3});
  SideCopies side;
  side.start(memory.copies(), on_streams(7));
  journal.fails = "host waits";
  const Error error = CHECK_THROWS(Error, side.wait());
  CHECK_EQ(std::string(error.what()),
           "waiting for copies on cuda:0 failed: cudaErrorOfTests (700)");
  journal.fails = "7 waits";
  CHECK_THROWS(Error, side.hold_back(on_streams(7)));
}

TEST(whoever_goes_waits_for_the_copies) {
  const host_grid::Installed installed;
  Memory memory({3});
  {
    SideCopies side;
    side.start(memory.copies(), on_streams(7));
  }
  CHECK(memory.to == memory.from);
  CHECK_EQ(host_grid::record.waits.size(), 1u);
}

TEST(a_forked_child_leaves_the_parents_copies_alone) {
  const host_grid::Installed installed;
  Memory memory({3});
  SideCopies side;
  side.start(memory.copies(), on_streams(7));
  const pid_t child = fork();
  if (child == 0) {
    taken_calls();
    side.hold_back(on_streams(7));
    side.wait();
    if (journal.calls.size() != 1) _exit(1);
    side.start(memory.copies(), on_streams(7));  // streams of its own
    _exit(journal.calls.size() > 1 && journal.calls[2] == "make s" ? 0 : 2);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK_EQ(status, 0);
  side.wait();
}
