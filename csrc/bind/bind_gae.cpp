#include <cstring>

#include "../cpu/gae.h"
#include "backend.h"
#include "bind_ops.h"
#include "estimator_inputs.h"
#include "fastcall.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "gae";

// args: rewards, values, terminated, truncated, last_values, truncation_values, valid, gamma, gae_lambda, time_major, priorities, summary, advantages, returns
void gae_checked(PyObject* const* args) {
  EstimatorInputs in(kOp, args[9] == Py_True);
  GaeParams p;
  p.in = read_departure(in, {args[0], args[1], args[2], args[3], args[4], args[5], args[6]});
  in.discount("gamma", args[7], &p.in.discounts.gamma, &p.in.discounts.gammas);
  in.discount("gae_lambda", args[8], &p.in.discounts.gae_lambda, &p.in.discounts.gae_lambdas);
  p.advantages = in.output("out[0]", args[12], in.dtype());
  p.returns = in.output("out[1]", args[13], in.dtype());
  p.statistics = in.statistics(args[10], args[11], in.dtype());
  expect_truncation_values(kOp, p.in);
  in.mark_outputs();
  HL_RUN_ESTIMATOR(gae, in, 5, p);
}

#if !defined(HL_BIND_CUDA)

constexpr const char* kNextOp = "gae_of_next_values";

// What two bool flags of each step have to do with each other.
struct FlagPair {
  bool equal, first_implies_second;
};

FlagPair compare_flags(const Matrix& first, const Matrix& second, int64_t rows, int64_t horizon) {
  uint64_t differing = 0, missing = 0;
  const auto compare = [&](uint64_t x, uint64_t y) {
    differing |= x ^ y;
    missing |= x & ~y;
  };
  const auto whole = [&](const Matrix& m) { return m.time_stride == 1 && m.row_stride == horizon; };
  if (whole(first) && whole(second)) {  // one run, eight flags at a time
    horizon *= rows;
    rows = 1;
  }
  for (int64_t i = 0; i < rows; ++i) {
    const char *x = first.data + i * first.row_stride, *y = second.data + i * second.row_stride;
    int64_t t = 0;
    if (first.time_stride == 1 && second.time_stride == 1) {
      for (; t + 8 <= horizon; t += 8) {
        uint64_t eight, others;
        std::memcpy(&eight, x + t, 8);
        std::memcpy(&others, y + t, 8);
        compare(eight, others);
      }
    }
    for (; t < horizon; ++t) {
      compare(static_cast<uint8_t>(x[t * first.time_stride]), static_cast<uint8_t>(y[t * second.time_stride]));
    }
  }
  return {differing == 0, missing == 0};
}

Matrix flags(EstimatorInputs& in, const char* arg, PyObject* object) {
  const Matrix read = in.matrix(arg, object, Kind::flag);
  if (read.dtype != DType::b8) throw NeedsDispatcher{};
  return read;
}

// args: rewards, values, next_values, terminated, done, gamma, gae_lambda, time_major, advantages, returns
void gae_of_next_values_checked(PyObject* const* args) {
  EstimatorInputs in(kNextOp, args[7] == Py_True);
  in.drop_last_of_one();
  GaeParams p;
  p.in.values = p.in.baseline = in.matrix("values", args[1], Kind::real);
  p.in.rewards = in.matrix("rewards", args[0], Kind::real);
  p.in.next_values = in.matrix("next_values", args[2], Kind::real);
  p.in.terminated = flags(in, "terminated", args[3]);
  const Matrix done = flags(in, "done", args[4]);
  const FlagPair pair = compare_flags(p.in.terminated, done, in.rows(), in.horizon());
  if (!pair.first_implies_second) throw NeedsDispatcher{};
  if (!pair.equal) {  // a time limit: cut as an end, but with the value of what follows
    p.in.truncated = done;
    p.in.truncation_values = p.in.next_values;
  }
  p.in.rows = in.rows();
  p.in.horizon = in.horizon();
  p.in.dtype = in.dtype();
  in.discount("gamma", args[5], &p.in.discounts.gamma, &p.in.discounts.gammas);
  in.discount("gae_lambda", args[6], &p.in.discounts.gae_lambda, &p.in.discounts.gae_lambdas);
  p.advantages = in.output("out[0]", args[8], in.dtype());
  p.returns = in.output("out[1]", args[9], in.dtype());
  in.mark_outputs();
  HL_RUN_ESTIMATOR(gae, in, 6, p);
}

#endif

}  // namespace

void bind_gae(PyObject* module) {
  add_op<14, gae_checked>(module, kOp);
#if !defined(HL_BIND_CUDA)
  add_op<10, gae_of_next_values_checked>(module, kNextOp);
#endif
}

}  // namespace hotloop
