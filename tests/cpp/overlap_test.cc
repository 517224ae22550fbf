// check_overlap against every pair of ranges compared with every other.
#include "core/overlap.h"

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <utility>

#include "check.h"
#include "core/error.h"

using swa_fast::check_overlap;
using swa_fast::Error;
using swa_fast::Range;

namespace {

// A pair of a call: what it writes and what it reads.
struct PairRange {
  uintptr_t dst_begin, dst_end, src_begin, src_end;
  uint32_t pair;

  Range dst() const { return {dst_begin, dst_end, pair, 0}; }
  Range src() const { return {src_begin, src_end, pair, 1}; }
};

std::function<std::string(const Range&)> named(const char* dst, const char* src) {
  return [=](const Range& r) { return swa_fast::item_name(r.side == 0 ? dst : src, r.pair); };
}

// Checks the pairs of a call, which writes its sources too or not.
void check_pairs(const std::vector<PairRange>& pairs,
                 const std::function<std::string(const Range&)>& name, bool src_is_written) {
  std::vector<Range> written, read;
  for (const PairRange& p : pairs) {
    const bool itself = p.dst_begin == p.src_begin && p.dst_end == p.src_end;
    written.push_back(p.dst());
    if (!src_is_written) read.push_back(p.src());
    if (src_is_written && !itself) written.push_back(p.src());
  }
  check_overlap(written, read, name);
}

// The names of every two ranges of the call that may not meet and do.
std::set<std::string> conflicts(const std::vector<PairRange>& ranges, bool src_is_written) {
  std::vector<Range> all;
  for (const PairRange& r : ranges) {
    all.push_back(r.dst());
    all.push_back(r.src());
  }
  std::set<std::string> found;
  const auto name = named("dst", "src");
  for (const Range& a : all) {
    for (const Range& b : all) {
      const bool same_range = a.begin == b.begin && a.end == b.end;
      const bool meet = a.begin < b.end && b.begin < a.end;
      const bool itself = a.pair == b.pair && a.side == b.side;
      const bool both_read = a.side > 0 && b.side > 0 && !src_is_written;
      const bool allowed = itself || (a.pair == b.pair && same_range) || both_read;
      if (meet && !allowed) found.insert(name(a) + " and " + name(b));
    }
  }
  return found;
}

std::string describe(const std::vector<PairRange>& ranges) {
  std::string text;
  for (const PairRange& r : ranges) {
    text += " [" + std::to_string(r.dst_begin) + "," + std::to_string(r.dst_end) + ")<-[" +
            std::to_string(r.src_begin) + "," + std::to_string(r.src_end) + ")";
  }
  return text;
}

// Compares one configuration; true if it was allowed.
bool compare(const std::vector<PairRange>& ranges, bool src_is_written) {
  const std::set<std::string> expected = conflicts(ranges, src_is_written);
  std::string message;
  try {
    check_pairs(ranges, named("dst", "src"), src_is_written);
  } catch (const Error& error) {
    CHECK(error.kind() == swa_fast::ErrorKind::kValue);
    message = error.what();
  }
  const std::string named = message.substr(0, message.find(" overlap"));
  CHECK_WITH(message.empty() == expected.empty(), describe(ranges) + ": " + message);
  // What it names are two ranges that do meet.
  CHECK_WITH(message.empty() || expected.count(named) == 1, describe(ranges) + ": " + message);
  return expected.empty();
}

// A few ranges in little memory, so that they often meet.
std::vector<PairRange> random_ranges(std::mt19937_64& random) {
  const size_t pairs = random() % 6;
  const uintptr_t room = 4 + random() % 200;
  const uintptr_t longest = 1 + random() % 12;
  std::vector<PairRange> ranges;
  uint32_t index = 0;
  for (size_t i = 0; i < pairs; ++i) {
    const uintptr_t dst = 100 + random() % room, dst_size = 1 + random() % longest;
    uintptr_t src = 100 + random() % room, src_size = dst_size;
    if (random() % 4 == 0) src = dst;                          // its own source
    if (random() % 3 == 0) src_size = 1 + random() % longest;  // a source of another type
    index += random() % 3;                                     // empty pairs were left out
    ranges.push_back({dst, dst + dst_size, src, src + src_size, index++});
  }
  return ranges;
}

// Disjoint destinations and sources in `pairs` blocks, in random order, and then one range moved.
std::vector<PairRange> nearly_disjoint(std::mt19937_64& random, size_t pairs) {
  std::vector<uintptr_t> blocks(2 * pairs);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = 1000 + 10 * i;
  if (random() % 2 == 0) std::shuffle(blocks.begin(), blocks.end(), random);
  std::vector<PairRange> ranges;
  for (size_t i = 0; i < pairs; ++i) {
    const uintptr_t dst = blocks[i], src = blocks[pairs + i];
    ranges.push_back({dst, dst + 10, src, src + 10, static_cast<uint32_t>(i)});
  }
  if (random() % 3 != 0) {
    PairRange& moved = ranges[random() % pairs];
    uintptr_t* const ends = random() % 2 == 0 ? &moved.dst_begin : &moved.src_begin;
    const uintptr_t by = 1 + random() % 9;
    ends[0] += by;
    ends[1] += by;
  }
  return ranges;
}

}  // namespace

TEST(random_small_configurations) {
  std::mt19937_64 random(17);
  int allowed = 0;
  constexpr int kRounds = 60000;
  for (int round = 0; round < kRounds; ++round) {
    const std::vector<PairRange> ranges = random_ranges(random);
    allowed += compare(ranges, round % 2 == 0) ? 1 : 0;
  }
  CHECK(allowed > kRounds / 10 && allowed < kRounds * 9 / 10);
}

TEST(one_range_out_of_place_among_many) {
  std::mt19937_64 random(18);
  int allowed = 0;
  for (int round = 0; round < 2000; ++round) {
    allowed += compare(nearly_disjoint(random, 1 + random() % 40), round % 2 == 0) ? 1 : 0;
  }
  CHECK(allowed > 200 && allowed < 1800);
}

TEST(neighbours_do_not_overlap) {
  for (const bool src_is_written : {false, true}) {
    CHECK(compare({{100, 200, 200, 300, 0}, {300, 400, 0, 100, 1}}, src_is_written));
    CHECK(!compare({{100, 201, 300, 401, 0}, {200, 300, 500, 600, 1}}, src_is_written));
  }
}

TEST(sources_may_be_shared_unless_written) {
  CHECK(compare({{100, 200, 500, 600, 0}, {200, 300, 500, 600, 1}}, false));
  CHECK(!compare({{100, 200, 500, 600, 0}, {200, 300, 500, 600, 1}}, true));
}

TEST(own_source_is_allowed_as_a_whole_only) {
  for (const bool src_is_written : {false, true}) {
    CHECK(compare({{100, 200, 100, 200, 7}}, src_is_written));
    CHECK(!compare({{100, 200, 101, 201, 7}}, src_is_written));
    CHECK(!compare({{100, 200, 100, 150, 7}}, src_is_written));
    CHECK(!compare({{100, 200, 120, 140, 7}}, src_is_written));
    // Nor is another pair's.
    CHECK(!compare({{100, 200, 300, 400, 0}, {500, 600, 100, 200, 1}}, src_is_written));
  }
}

namespace {

// A group: what it writes, and any number of sources.
struct Group {
  Range written;
  std::vector<Range> sources;
};

std::string side_name(const Range& r) {
  const std::string list = r.side == 0 ? "out" : "source" + std::to_string(r.side);
  return swa_fast::item_name(list.c_str(), r.pair);
}

// Groups of several sources in little memory, so that they often meet.
std::vector<Group> random_groups(std::mt19937_64& random) {
  const uintptr_t room = 30 + random() % 300;
  std::vector<Group> groups(random() % 5);
  uint32_t pair = 0;
  for (Group& group : groups) {
    pair += static_cast<uint32_t>(random() % 2);
    const uintptr_t begin = 100 + random() % room, size = 1 + random() % 9;
    group.written = {begin, begin + size, pair, 0};
    for (int32_t side = 1; side <= 3; ++side) {
      const uintptr_t at = random() % 4 == 0 ? begin : 100 + random() % room;
      const uintptr_t bytes = random() % 3 == 0 ? 1 + random() % 9 : size;
      group.sources.push_back({at, at + bytes, pair, side});
    }
    ++pair;
  }
  return groups;
}

}  // namespace

// Every written range against every other one: what may meet is a group's own output and any of its
// sources, if they are the same range.
TEST(several_sources_of_a_group) {
  std::mt19937_64 random(20);
  int allowed = 0, refused = 0;
  for (int round = 0; round < 40000; ++round) {
    const std::vector<Group> groups = random_groups(random);
    std::vector<Range> written, read;
    for (const Group& group : groups) {
      written.push_back(group.written);
      read.insert(read.end(), group.sources.begin(), group.sources.end());
    }
    std::set<std::string> expected;
    const auto meet = [](const Range& a, const Range& b) {
      return a.begin < b.end && b.begin < a.end;
    };
    for (const Range& w : written) {
      for (const Range& other : written) {
        if (w.pair != other.pair && meet(w, other)) {
          expected.insert(side_name(w) + " and " + side_name(other));
        }
      }
      for (const Range& r : read) {
        const bool own = w.pair == r.pair && w.begin == r.begin && w.end == r.end;
        if (meet(w, r) && !own) expected.insert(side_name(w) + " and " + side_name(r));
      }
    }
    std::string message;
    try {
      check_overlap(written, read, side_name);
    } catch (const Error& error) {
      message = error.what();
      CHECK_EQ(std::string(error.refusal().rule), "overlap");
      CHECK_EQ(error.refusal().index, -1);
    }
    const std::string both = message.substr(0, message.find(" overlap"));
    CHECK_WITH(message.empty() == expected.empty(), message);
    CHECK_WITH(message.empty() || expected.count(both) == 1, message);
    ++(expected.empty() ? allowed : refused);
  }
  CHECK(allowed > 4000 && refused > 4000);
}

TEST(message_names_both_and_the_rule) {
  const Error error =
      CHECK_THROWS(Error, check_pairs({{100, 200, 300, 400, 2}, {150, 160, 500, 510, 5}},
                                      named("averages", "values"), false));
  CHECK_EQ(std::string(error.what()),
           "averages[2] and averages[5] overlap in memory: every tensor that is written must be "
           "disjoint from the others of the call");
  const Error swapped = CHECK_THROWS(
      Error,
      check_pairs({{100, 200, 300, 400, 0}, {500, 600, 350, 450, 1}}, named("a", "b"), true));
  CHECK_EQ(std::string(swapped.what()).find("b[0] and b[1] overlap"), 0u);
}
