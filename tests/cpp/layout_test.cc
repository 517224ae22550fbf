// layout.h against a list of every element's place in memory.
#include "core/layout.h"

#include <algorithm>
#include <random>

#include "buffers.h"
#include "check.h"
#include "core/error.h"

using namespace swa_fast;

namespace {

// The offset of each element from the first, in elements, in the order of the indices.
std::vector<int64_t> places(const Layout& layout) {
  Extents strides = layout.strides;
  if (!layout.has_strides) {
    strides.assign(layout.shape.size(), 1);
    for (size_t axis = strides.size(); axis-- > 1;) {
      strides[axis - 1] = strides[axis] * layout.shape[axis];
    }
  }
  std::vector<int64_t> all = {0};
  for (size_t axis = 0; axis < layout.shape.size(); ++axis) {
    std::vector<int64_t> next;
    for (const int64_t place : all) {
      for (int64_t i = 0; i < layout.shape[axis]; ++i) next.push_back(place + i * strides[axis]);
    }
    all = next;
  }
  return all;
}

bool fills_a_solid_block(const Layout& layout) {
  std::vector<int64_t> sorted = places(layout);
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (sorted[i] != static_cast<int64_t>(i)) return false;
  }
  return true;
}

std::string text(const Layout& layout) {
  return shape_text(layout.buffer()) + " strides " + strides_text(layout.buffer());
}

// Strides that are mostly those of some axis order, sometimes spoiled.
Layout random_layout(const Extents& shape, std::mt19937_64& random) {
  if (random() % 5 == 0) return Layout(shape);
  std::vector<size_t> order(shape.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (random() % 3 != 0) std::shuffle(order.begin(), order.end(), random);
  Extents strides(shape.size());
  int64_t stride = 1;
  for (size_t i = order.size(); i-- > 0;) {
    strides[order[i]] = stride;
    stride *= shape[order[i]];
  }
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] == 1 && random() % 2 == 0) {
      strides[axis] = static_cast<int64_t>(random() % 100) - 50;  // never taken: means nothing
    }
    if (random() % 3 == 0) strides[axis] = static_cast<int64_t>(random() % 9) - 3;
  }
  return Layout(shape, strides);
}

Extents random_shape(std::mt19937_64& random) {
  Extents shape(random() % 5);
  for (int64_t& extent : shape) extent = 1 + static_cast<int64_t>(random() % 4);
  return shape;
}

int64_t count(const Extents& shape) {
  return count_elements(shape.data(), static_cast<int32_t>(shape.size()), "averages", 3);
}

std::string count_error(const Extents& shape) {
  const Error error = CHECK_THROWS(Error, count(shape));
  CHECK(error.kind() == ErrorKind::kValue);
  return error.what();
}

}  // namespace

TEST(dense_is_a_solid_block) {
  std::mt19937_64 random(15);
  int dense = 0;
  for (int round = 0; round < 20000; ++round) {
    const Layout layout = random_layout(random_shape(random), random);
    const bool expected = fills_a_solid_block(layout);
    CHECK_WITH(is_dense(layout.buffer()) == expected, text(layout));
    dense += expected ? 1 : 0;
  }
  CHECK_WITH(dense > 5000 && dense < 15000, std::to_string(dense));  // both answers were asked for
}

TEST(same_layout_is_the_same_place_for_every_element) {
  std::mt19937_64 random(16);
  int same = 0;
  for (int round = 0; round < 20000; ++round) {
    const Extents shape = random_shape(random);
    const Layout a = random_layout(shape, random);
    const Layout b = random() % 3 == 0 ? a : random_layout(shape, random);
    const bool expected = fills_a_solid_block(a) && places(a) == places(b);
    CHECK_WITH(same_dense_layout(a.buffer(), b.buffer()) == expected, text(a) + ", " + text(b));
    CHECK_EQ(same_dense_layout(b.buffer(), a.buffer()), expected);
    same += expected ? 1 : 0;
  }
  CHECK_WITH(same > 5000 && same < 15000, std::to_string(same));
}

TEST(known_layouts) {
  const Layout row_major({2, 3, 4}), fortran({2, 3, 4}, {1, 2, 6});
  const Layout channels_last({2, 3, 4, 5}, {60, 1, 15, 3}), nchw({2, 3, 4, 5});
  CHECK(is_dense(row_major.buffer()));
  CHECK(is_dense(fortran.buffer()));
  CHECK(is_dense(channels_last.buffer()));
  CHECK(same_dense_layout(channels_last.buffer(), channels_last.buffer()));
  CHECK(!same_dense_layout(channels_last.buffer(), nchw.buffer()));
  CHECK(!same_dense_layout(row_major.buffer(), fortran.buffer()));
  CHECK(same_dense_layout(row_major.buffer(), Layout({2, 3, 4}, {12, 4, 1}).buffer()));
  CHECK(is_dense(Layout({}).buffer()));               // zero-dimensional
  CHECK(is_dense(Layout({1, 1}, {7, -3}).buffer()));  // one element
  CHECK(!is_dense(Layout({3}, {0}).buffer()));        // broadcast
  CHECK(!is_dense(Layout({2, 3}, {0, 1}).buffer()));  // broadcast
  CHECK(!is_dense(Layout({3}, {-1}).buffer()));       // reversed
  CHECK(!is_dense(Layout({3}, {2}).buffer()));        // every other
  CHECK(!is_dense(Layout({2, 2}, {3, 1}).buffer()));  // a corner
  CHECK(!is_dense(Layout({2, 2}, {1, 1}).buffer()));  // two elements in one place
}

TEST(same_shape_compares_extents) {
  CHECK(same_shape(Layout({}).buffer(), Layout({}).buffer()));
  CHECK(same_shape(Layout({2, 3}).buffer(), Layout({2, 3}, {1, 2}).buffer()));
  CHECK(!same_shape(Layout({2, 3}).buffer(), Layout({3, 2}).buffer()));
  CHECK(!same_shape(Layout({2, 3}).buffer(), Layout({2, 3, 1}).buffer()));
  CHECK(!same_shape(Layout({}).buffer(), Layout({1}).buffer()));
  CHECK(!same_shape(Layout({0}).buffer(), Layout({0, 0}).buffer()));
}

TEST(elements_are_counted) {
  CHECK_EQ(count({}), 1);
  CHECK_EQ(count({5}), 5);
  CHECK_EQ(count({2, 3, 4}), 24);
  CHECK_EQ(count({2, 0, 4}), 0);
  CHECK_EQ(count({int64_t{1} << 31, 4}), int64_t{1} << 33);
  CHECK_EQ(count({INT64_MAX / 16}), INT64_MAX / 16);
}

TEST(empty_stays_empty_beside_extents_that_overflow) {
  CHECK_EQ(count({INT64_MAX, INT64_MAX, 0}), 0);
  CHECK_EQ(count({0, INT64_MAX, INT64_MAX}), 0);
}

TEST(extents_that_overflow_are_refused) {
  for (const Extents& shape : {Extents{INT64_MAX}, Extents{INT64_MAX / 16 + 1},
                               Extents{int64_t{1} << 32, int64_t{1} << 32},
                               Extents{int64_t{1} << 62, 2, 2}, Extents{3, INT64_MAX / 2}}) {
    const std::string message = count_error(shape);
    CHECK_WITH(message.find("averages[3] has more elements than memory can hold: shape (") == 0,
               message);
  }
}

TEST(negative_extents_are_refused) {
  CHECK_EQ(count_error({2, -1}), "averages[3] has a negative extent: shape (2, -1)");
  CHECK_EQ(count_error({-5}), "averages[3] has a negative extent: shape (-5,)");
  CHECK_EQ(count_error({0, INT64_MIN}).find("averages[3] has a negative extent: shape (0, -"), 0u);
}

TEST(texts_are_spelled_as_python_spells_tuples) {
  CHECK_EQ(shape_text(Layout({}).buffer()), "()");
  CHECK_EQ(shape_text(Layout({7}).buffer()), "(7,)");
  CHECK_EQ(shape_text(Layout({2, 3}).buffer()), "(2, 3)");
  CHECK_EQ(strides_text(Layout({2, 3}).buffer()), "(3, 1)");
  CHECK_EQ(strides_text(Layout({2, 3}, {1, -2}).buffer()), "(1, -2)");
  CHECK_EQ(strides_text(Layout({}).buffer()), "()");
}
