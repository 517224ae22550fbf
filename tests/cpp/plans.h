// Plans and launches as the functional calls make them: two lists, one operation, run at once.
#pragma once

#include <cstdint>

#include "core/action.h"
#include "core/plan.h"
#include "cpu/launch.h"

// What a call of `op` with this weight does to its averages.
inline swa_fast::Action action_of(swa_fast::Op op, const swa_fast::Weight& weight) {
  return op == swa_fast::Op::kLerp ? swa_fast::snapshot_action(weight)
                                   : swa_fast::unconditional_action();
}

inline swa_fast::Plan plan_of(swa_fast::Op op, const swa_fast::TensorLists& lists,
                              const swa_fast::Counter* counter = nullptr,
                              const swa_fast::TensorLists* copies = nullptr) {
  swa_fast::Plan plan(false, counter);
  plan.add(op, lists.src_name, lists.src, {{lists.dst_name, lists.dst}});
  if (copies != nullptr) {
    plan.add(swa_fast::Op::kCopy, copies->src_name, copies->src,
             {{copies->dst_name, copies->dst, swa_fast::Targets::kCopy}});
  }
  plan.prepare();
  return plan;
}

inline void run_call(swa_fast::Op op, const swa_fast::TensorLists& lists,
                     const swa_fast::Weight& weight, const swa_fast::cuda::Streams& streams = {}) {
  const swa_fast::Action action = action_of(op, weight);
  plan_of(op, lists).run(&action, streams);
}

// A segment that one kernel serves, whatever the weight.
inline swa_fast::cpu::Segment segment_of(swa_fast::cpu::RangeKernel kernel, void* dst, void* src,
                                         int64_t count, int64_t dst_step, int64_t src_step) {
  return {kernel,
          kernel,
          static_cast<char*>(dst),
          static_cast<char*>(src),
          count,
          static_cast<int32_t>(dst_step),
          static_cast<int32_t>(src_step),
          0,
          0,
          0,
          false};
}

// One segment as a launch of its own.
inline void run_segment(const swa_fast::cpu::Segment& segment, const swa_fast::Weight& weight,
                        int threads) {
  swa_fast::cpu::Launch launch;
  launch.add(segment, true);
  launch.finish();
  const swa_fast::Action action = {swa_fast::Action::kBlend, weight};
  launch.run(&action, threads);
}
