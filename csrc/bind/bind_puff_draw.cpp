#include <pybind11/pybind11.h>

#include "../cpu/puff_draw.h"
#include "bind_plans.h"
#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {

namespace py = pybind11;

namespace {

// Works in tensors that it is given once and that nobody else may move: see hotloop.ops.PuffDraw.
struct PuffDraw {
  static constexpr const char* kOp = "PuffDraw";
  py::object held;  // the tensors
  float *sums, *powers, *chances, *race, *picked;
  int64_t* rows;
  int64_t segments, count;
  std::vector<uint64_t> scratch;
  std::vector<int64_t> changed;

  PuffDraw(const py::object& sums_, const py::object& powers_, const py::object& chances_, const py::object& race_,
           const py::object& rows_, const py::object& picked_)
      : held(py::make_tuple(sums_, powers_, chances_, race_, rows_, picked_)) {
    const View first = read_tensor(kOp, "sums", sums_.ptr());
    expect_ndim(kOp, "sums", first, 1, "[S]");
    segments = first.shape[0];
    const View drawn = read_tensor(kOp, "rows", rows_.ptr());
    expect_ndim(kOp, "rows", drawn, 1, "[k]");
    expect_dtype(kOp, "rows", drawn, DType::i64);
    count = drawn.shape[0];
    if (count > segments) value_error(kOp, "rows", "at most " + std::to_string(segments), describe(drawn));
    sums = vector("sums", sums_, segments);
    powers = vector("powers", powers_, segments);
    chances = vector("chances", chances_, segments);
    race = vector("race", race_, segments);
    picked = vector("picked", picked_, count);
    if (drawn.stride[0] != 1 && count > 1) value_error(kOp, "rows", "contiguous", describe(drawn));
    rows = reinterpret_cast<int64_t*>(drawn.data);
  }

  static float* vector(const char* arg, const py::object& tensor, int64_t size) {
    const View view = read_tensor(kOp, arg, tensor.ptr());
    expect_shape(kOp, arg, view, {size}, "[n]");
    expect_dtype(kOp, arg, view, DType::f32);
    if (size > 1 && view.stride[0] != 1) value_error(kOp, arg, "contiguous", describe(view));
    return reinterpret_cast<float*>(view.data);
  }

  // Rows of float32, one number behind the other.
  bool is_plain(const View& view, int64_t horizon) const {
    return view.dtype == DType::f32 && view.ndim == 2 && view.shape[0] == segments && view.shape[1] == horizon &&
           (view.stride[1] == 1 || horizon == 1);
  }

  // sums = sum_t |A| of all rows. False: `advantages` is of another kind.
  bool sum_up(const py::handle& advantages) try {
    const View a = read_tensor(kOp, "advantages", advantages.ptr());
    if (a.ndim != 2 || !is_plain(a, a.shape[1])) return false;
    const float* from = reinterpret_cast<const float*>(a.data);
    run_kernel(view_bytes(a), [&] {
      for (int64_t s = 0; s < segments; ++s) {
        sums[s] = ordered_sum_of_magnitudes(from + s * a.stride[0], a.shape[1]);
      }
    });
    return true;
  } catch (const NeedsDispatcher&) {
    return false;
  }

  // Advantages, returns and sums of the rows that were drawn last. False, and nothing is written: an argument is of
  // another kind.
  bool renew(const py::handle& values, const py::handle& rewards, const py::handle& dones,
             const py::handle& importance, double gamma, double gae_lambda, double rho_clip, double c_clip,
             const py::handle& advantages, const py::handle& returns) try {
    const View v = read_tensor(kOp, "values", values.ptr());
    const View r = read_tensor(kOp, "rewards", rewards.ptr());
    const View d = read_tensor(kOp, "dones", dones.ptr());
    const View w = read_tensor(kOp, "importance", importance.ptr());
    const View a = read_tensor(kOp, "advantages", advantages.ptr());
    const View g = read_tensor(kOp, "returns", returns.ptr());
    if (v.ndim != 2 || v.shape[1] < 1) return false;
    for (const View* each : {&v, &r, &d, &w, &a, &g}) {
      if (!is_plain(*each, v.shape[1])) return false;
    }
    for (const View* each : {&v, &r, &d, &w, &g}) expect_disjoint(kOp, "advantages", a, "the others", *each);
    for (const View* each : {&v, &r, &d, &w}) expect_disjoint(kOp, "returns", g, "the others", *each);
    expect_no_self_overlap(kOp, "advantages", a);
    expect_no_self_overlap(kOp, "returns", g);
    changed.assign(rows, rows + count);  // a copy: what is checked must still hold in the kernel
    for (int64_t row : changed) {
      if (row < 0 || row >= segments) value_error(kOp, "rows", "those of a draw", std::to_string(row));
    }
    PuffRowsParams p;
    p.horizon = v.shape[1];
    p.values = numbers(v, &p.values_step);
    p.rewards = numbers(r, &p.rewards_step);
    p.dones = numbers(d, &p.dones_step);
    p.importance = numbers(w, &p.importance_step);
    p.advantages = numbers(a, &p.advantages_step);
    p.returns = numbers(g, &p.returns_step);
    p.gamma = static_cast<float>(gamma);
    p.gae_lambda = static_cast<float>(gae_lambda);
    p.rho_clip = static_cast<float>(rho_clip);
    p.c_clip = static_cast<float>(c_clip);
    p.rows = changed.data();
    p.count = count;
    p.sums = sums;
    mark_written(advantages.ptr());
    mark_written(returns.ptr());
    run_kernel(count * p.horizon * 6 * static_cast<int64_t>(sizeof(float)), [&] { puff_rows(p); });
    return true;
  } catch (const NeedsDispatcher&) {
    return false;
  }

  static float* numbers(const View& view, int64_t* step) {
    *step = view.stride[0];
    return reinterpret_cast<float*>(view.data);
  }

  double total() const { return static_cast<double>(ordered_sum(powers, segments)); }

  void weigh(double all) { puff_chances(powers, static_cast<float>(all), segments, chances); }

  bool choose() {
    bool decided = false;
    run_kernel(segments * 12, [&] { decided = puff_race(chances, race, segments, count, rows, &scratch); });
    return decided;
  }

  void pick() {
    for (int64_t j = 0; j < count; ++j) {
      if (rows[j] < 0 || rows[j] >= segments) value_error(kOp, "rows", "those of a draw", std::to_string(rows[j]));
      picked[j] = static_cast<float>(segments) * chances[rows[j]];
    }
  }
};

}  // namespace

void bind_puff_draw(py::module_& m) {
  py::class_<PuffDraw>(m, "PuffDraw")
      .def(py::init<py::object, py::object, py::object, py::object, py::object, py::object>(), py::arg("sums"),
           py::arg("powers"), py::arg("chances"), py::arg("race"), py::arg("rows"), py::arg("picked"))
      .def("sum_up", &PuffDraw::sum_up, py::arg("advantages"))
      .def("renew", &PuffDraw::renew, py::arg("values"), py::arg("rewards"), py::arg("dones"),
           py::arg("importance"), py::arg("gamma"), py::arg("gae_lambda"), py::arg("rho_clip"), py::arg("c_clip"),
           py::arg("advantages"), py::arg("returns"))
      .def("total", &PuffDraw::total)
      .def("weigh", &PuffDraw::weigh, py::arg("total"))
      .def("choose", &PuffDraw::choose)
      .def("pick", &PuffDraw::pick);
}

}  // namespace hotloop
