// The functional calls: lists in, validated and done at once.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace swa_fast {

void running_mean(pybind11::handle averages, pybind11::handle values, pybind11::handle count,
                  pybind11::handle copies);
void lerp_lists(pybind11::handle averages, pybind11::handle values, pybind11::handle weight,
                pybind11::handle copies);
void tfa_mean(pybind11::handle averages, pybind11::handle values, pybind11::handle count);
void swap_lists(pybind11::handle a, pybind11::handle b);
void copy_lists(pybind11::handle dst, pybind11::handle src);
bool all_finite(pybind11::handle tensors);
void combine_lists(pybind11::handle outputs, pybind11::handle sources, pybind11::handle weights);
pybind11::list squared_distances(pybind11::handle averages, pybind11::handle values);
void set_threads(pybind11::handle count);

// Numbers that users give. Each throws the Error, or the Python error, that names the argument.
int64_t parse_integer(pybind11::handle value, const char* name);
int64_t parse_count(pybind11::handle count);   // 0 to 2^53 - 1
double parse_weight(pybind11::handle weight);  // 0 to 1

}  // namespace swa_fast
