#include <limits>

#include "../cpu/categorical.h"
#include "../cpu/column_stage.h"
#include "../cpu/move.h"
#include "bind_plans.h"
#include "bind_row_cursors.h"
#include "lent_buffer.h"
#include "plan_leaves.h"
#include "torch_bridge.h"

namespace hotloop {

namespace py = pybind11;

namespace {

// Where the numbers of a leaf come from. The first five are entries of the environment's step, in its order.
enum Source : int {
  kObservations,
  kRewards,
  kTerminals,
  kTruncations,
  kMask,
  kBaseline,
  kZero,
  kOne,
  kValue,
  kAction,
  kLogProb,
  kSources
};
constexpr int kStepEntries[] = {0, 1, 2, 3, 6};  // positions in the step's tuple
constexpr const char* kSourceNames[kSources] = {"observations", "rewards",  "terminals", "truncations",
                                                "mask",         "baseline", "zero",      "one",
                                                "value",        "actions",  "log_prob"};

// Acts and stores for the steps of a rollout; at both ends of their rows only where it is asked to. `begin` looks at
// what the environment returned and `finish` draws from the logits and stores; both say false, having written
// nothing, where a step is not of the plain kind, and leave it to whoever knows the other kinds.
struct ActPlan {
  static constexpr const char* kOp = "ActPlan";
  py::object buffer;
  LeafPaths paths;
  std::vector<std::string> names, last_names, baseline_names;
  std::vector<int> sources;
  std::vector<int64_t> choices;
  bool single;
  py::object cursors_object;  // keeps `cursors` alive
  CursorsObject* cursors;

  // Of a rollout. What is held here is not read anew at every step: between `bind` and `release` nobody may replace
  // or move these tensors.
  std::unique_ptr<HeldTensors> leaves, last, baseline;
  uint64_t seed = 0, first_agent = 0;
  bool refuse_truncated = false, edges = false;
  std::vector<int64_t> acted;  // by the first agent of a slice

  // Of a step.
  py::object step;
  View entries[5];
  int64_t start = 0, count = 0, position = 0;
  bool begun = false;
  std::vector<double> scratch;  // log probabilities
  std::vector<RowMove> moves;
  int64_t stored = 0;

  ColumnStage columns;  // those that are not in the buffer yet: nobody looks into it during a run

  ActPlan(py::object buffer_, const py::handle& paths_, std::vector<int> sources_, std::vector<int64_t> choices_,
          bool single_, py::object cursors_)
      : buffer(std::move(buffer_)),
        paths(kOp, paths_),
        names(paths.names("buffer")),
        last_names({"last_actions"}),
        baseline_names({"baseline"}),
        sources(std::move(sources_)),
        choices(std::move(choices_)),
        single(single_),
        cursors_object(std::move(cursors_)),
        cursors(cursors_object.cast<CursorsObject*>()) {
    if (sources.size() != paths.size()) {
      value_error(kOp, "sources", "one for each path", std::to_string(sources.size()));
    }
    for (int each : sources) {
      if (each < 0 || each >= kSources) value_error(kOp, "sources", "in [0, 11)", std::to_string(each));
    }
    for (int64_t each : choices) {
      if (each < 1) value_error(kOp, "choices", "positive", std::to_string(each));
    }
    if (choices.empty()) value_error(kOp, "choices", "of one head at least", "none");
  }

  // Before a run of steps. `acted_`: how often each slice has acted, by its first agent. False where the buffer needs
  // torch's dispatcher or is not of plain shape.
  bool bind(const py::handle& last_actions, const py::handle& baseline_, int64_t seed_, int64_t first_agent_,
            bool refuse_truncated_, const py::dict& acted_, bool edges_) try {
    release();
    auto found = std::make_unique<HeldTensors>(names);
    auto last_found = std::make_unique<HeldTensors>(last_names);
    auto baseline_found = std::make_unique<HeldTensors>(baseline_names);
    paths.find_all(kOp, "buffer", buffer, found.get());
    last_found->hold(py::reinterpret_borrow<py::object>(last_actions));
    if (!baseline_.is_none()) baseline_found->hold(py::reinterpret_borrow<py::object>(baseline_));
    found->read(kOp);
    last_found->read(kOp);
    baseline_found->read(kOp);
    const RowCursors& at = cursors->cursors;
    const int64_t heads = static_cast<int64_t>(choices.size());
    for (size_t l = 0; l < sources.size(); ++l) {
      const View& view = found->views[l];
      if (view.ndim < 2 || view.shape[0] != at.segments || view.shape[1] != at.horizon) return false;
      const bool wide = sources[l] == kObservations || sources[l] == kAction;
      if (!wide && view.ndim != 2) return false;
      if (sources[l] == kAction && !(view.ndim == 2 && single) && !(view.ndim == 3 && view.shape[2] == heads)) {
        return false;
      }
      if (sources[l] == kBaseline && baseline_found->views.empty()) return false;
    }
    const View& memory = last_found->views[0];
    if (memory.ndim != 2 || memory.shape[0] != at.agents || memory.shape[1] != heads) return false;
    if (!baseline_found->views.empty()) {
      const View& averages = baseline_found->views[0];
      if (averages.ndim != 1 || averages.shape[0] != at.agents) return false;
    }
    expect_own_memory(kOp, *found);
    expect_own_memory(kOp, *last_found);
    expect_apart(kOp, *found, *last_found);
    expect_apart(kOp, *found, *baseline_found);
    acted.assign(static_cast<size_t>(at.agents), 0);
    for (const auto& each : acted_) {
      const int64_t agent = each.first.cast<int64_t>();
      cursors->expect_agents(agent, agent + 1);
      acted[static_cast<size_t>(agent)] = each.second.cast<int64_t>();
    }
    columns.bind(found->views);
    leaves = std::move(found);
    last = std::move(last_found);
    baseline = std::move(baseline_found);
    seed = static_cast<uint64_t>(seed_);
    first_agent = static_cast<uint64_t>(first_agent_);
    refuse_truncated = refuse_truncated_;
    edges = edges_;
    stored = 0;
    return true;
  } catch (const NeedsDispatcher&) {
    return false;
  } catch (const Error&) {  // the ordinary way says it in its own words
    return false;
  }

  // After a run: the steps stored, and how often each slice has acted. What was written counts as one change of every tensor.
  py::tuple release() {
    py::dict times;
    const int64_t steps = stored;
    stored = 0;
    begun = false;
    step = py::object();
    if (leaves) {
      flush();
      for (size_t agent = 0; agent < acted.size(); ++agent) {
        if (acted[agent] != 0) times[py::int_(agent)] = py::int_(acted[agent]);
      }
      if (steps > 0) {
        leaves->mark_written();
        last->mark_written();
      }
    }
    leaves.reset();
    last.reset();
    baseline.reset();
    return py::make_tuple(steps, times);
  }

  static bool slice_end(PyObject* end, int64_t* out) {
    if (!PyLong_CheckExact(end)) return false;
    int overflow = 0;
    *out = PyLong_AsLongLongAndOverflow(end, &overflow);
    return overflow == 0;
  }

  // Flags that are all false; a dtype that is not looked at counts as one that has some.
  static bool none_set(const View& flags) {
    if (itemsize(flags.dtype) != 1) return false;
    char any = 0;
    for (int64_t i = 0; i < flags.shape[0]; ++i) any |= flags.data[i * flags.stride[0]];
    return any == 0;
  }

  // How many agents the step is of, negative in a row's first or last column; 0 for one that is not taken.
  int64_t begin(const py::handle& given) try {
    begun = false;
    step = py::object();
    PyObject* const tuple = given.ptr();
    if (!leaves || !PyTuple_CheckExact(tuple) || PyTuple_GET_SIZE(tuple) != 8) return 0;
    PyObject* const window = PyTuple_GET_ITEM(tuple, 5);
    if (!PySlice_Check(window)) return 0;
    const auto* slice = reinterpret_cast<const PySliceObject*>(window);
    int64_t stop = 0;
    if (slice->step != Py_None || !slice_end(slice->start, &start) || !slice_end(slice->stop, &stop)) return 0;
    const RowCursors& at = cursors->cursors;
    if (start < 0 || stop <= start || stop > at.agents) return 0;
    count = stop - start;
    position = at.positions[start];
    const bool edge = position == 0 || position + 1 == at.horizon;
    if (position < 0 || position >= at.horizon || (edge && !edges)) return 0;
    for (int64_t i = start; i < stop; ++i) {
      if (at.positions[i] != position || at.rows[i] < 0 || at.rows[i] >= at.segments) return 0;
    }
    for (int e = 0; e < 5; ++e) {
      PyObject* const entry = PyTuple_GET_ITEM(tuple, kStepEntries[e]);
      if (e == kMask && entry == Py_None) {
        entries[e].ndim = -1;
        continue;
      }
      if (tensor_kind(entry) != TensorKind::exact) return 0;
      View& view = entries[e] = read_tensor(kOp, kSourceNames[e], entry);
      if (view.ndim < 1 || view.shape[0] != count || (e != kObservations && view.ndim != 1)) return 0;
    }
    if (refuse_truncated && !none_set(entries[kTruncations])) return 0;
    for (size_t l = 0; l < sources.size(); ++l) {
      if (sources[l] != kObservations) continue;
      const View &from = entries[kObservations], &to = leaves->views[l];
      if (from.ndim != to.ndim - 1) return 0;
      for (int d = 1; d < from.ndim; ++d) {
        if (from.shape[d] != to.shape[d + 1]) return 0;
      }
    }
    for (int e = 0; e < 5; ++e) {
      if (!absent(entries[e]) && !apart_from_written(entries[e])) return 0;
    }
    step = py::reinterpret_borrow<py::object>(given);
    begun = true;
    return edge ? -count : count;
  } catch (const NeedsDispatcher&) {
    return 0;
  } catch (const Error&) {  // the ordinary way says it in its own words
    return 0;
  }

  bool apart_from_written(const View& read) const {
    const ByteRange range = byte_range(read);
    for (const HeldTensors* written : {leaves.get(), last.get()}) {
      for (const ByteRange& each : written->ranges) {
        if (range.begin < each.end && each.begin < range.end) return false;
      }
    }
    return true;
  }

  // The network's outputs, a pair of logits [n, A] and values [n] or [n, 1], in; actions int32, n * k, out.
  bool finish(const py::handle& output, const py::handle& actions) try {
    if (!begun) return false;
    PyObject* const pair = output.ptr();
    if (!(PyTuple_Check(pair) || PyList_Check(pair)) || PySequence_Fast_GET_SIZE(pair) != 2) return false;
    // References of its own: another thread may empty a list while the kernel runs.
    const py::object held[2] = {py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(pair, 0)),
                                py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(pair, 1))};
    View views[2];
    for (int i = 0; i < 2; ++i) {
      if (tensor_kind(held[i].ptr()) != TensorKind::exact) return false;
      views[i] = read_tensor(kOp, i == 0 ? "logits" : "value", held[i].ptr());
      if (!is_floating(views[i].dtype) || !apart_from_written(views[i])) return false;
    }
    const View& logits = views[0];
    View value = views[1];
    if (value.ndim == 2 && value.shape[1] == 1) value.ndim = 1;
    int64_t width = 0;
    const int64_t heads = static_cast<int64_t>(choices.size());
    for (int64_t each : choices) width += each;
    if (logits.ndim != 2 || logits.shape[0] != count || logits.shape[1] != width) return false;
    if (value.ndim != 1 || value.shape[0] != count) return false;
    LentBuffer lent;
    if (!lent.take(actions.ptr(), true) || !lent.is("i", 4, count * heads)) return false;

    const DType dtype = logits.dtype == DType::f64 ? DType::f64 : DType::f32;
    scratch.resize(static_cast<size_t>(count));
    View drawn = vector_view(lent.data<void>(), DType::i32);
    if (!single) {
      drawn.ndim = 2;
      drawn.shape[1] = heads;
      drawn.stride[0] = heads;
      drawn.stride[1] = 1;
    }
    const View log_prob = vector_view(scratch.data(), dtype);
    CategoricalParams p;
    p.draw = true;
    p.seed = seed;
    p.step = static_cast<uint64_t>(acted[static_cast<size_t>(start)]) << 8;
    p.first_row = first_agent + static_cast<uint64_t>(start);
    p.rows = count;
    p.heads = heads;
    p.choices = choices.data();
    p.logits = as_matrix(logits);
    p.actions = single ? as_column(drawn) : as_matrix(drawn);
    p.log_prob = as_column(log_prob);

    if (!columns.continues(start, count, position)) flush();
    int64_t bytes = 0;
    plan_moves(value, drawn, log_prob, &bytes);
    RowCursors& at = cursors->cursors;
    const std::vector<int64_t> rows(at.rows + start, at.rows + start + count);
    bool in_order = true;
    for (int64_t i = 0; i < count; ++i) in_order &= rows[static_cast<size_t>(i)] == rows[0] + i;
    const std::vector<RowMove> collected = columns.take(&moves, start, count, position);
    if (in_order) {
      for (RowMove& move : moves) move.to += rows[0] * move.to_step;
    }
    View remembered_from = drawn;
    if (single) {
      remembered_from.ndim = 2;
      remembered_from.shape[1] = 1;
      remembered_from.stride[1] = 1;
    }
    std::vector<RowMove> remembered{plan_move(last->views[0], 1, remembered_from, 1)};
    remembered[0].to += start * remembered[0].to_step;
    run_kernel(4 * view_bytes(logits) + bytes, [&] {
      categorical(p);
      move_rows(moves, in_order ? nullptr : rows.data(), nullptr, count, bytes);
      move_rows(collected, nullptr, nullptr, count, 0);
      move_rows(remembered, nullptr, nullptr, count, 0);
    });
    if ((!collected.empty() && columns.full()) || position + 1 == at.horizon) flush();
    at.advance(start, start + count);
    ++acted[static_cast<size_t>(start)];
    ++stored;
    begun = false;
    return true;
  } catch (const NeedsDispatcher&) {
    return false;
  } catch (const Error&) {
    return false;
  }

  View vector_view(void* data, DType dtype) const {
    View view;
    view.data = static_cast<char*>(data);
    view.dtype = dtype;
    view.ndim = 1;
    view.shape[0] = count;
    view.stride[0] = 1;
    return view;
  }

  void flush() {
    if (columns.empty()) return;
    const int64_t* at = cursors->cursors.rows + columns.start();
    const std::vector<int64_t> rows(at, at + columns.count());
    run_kernel(columns.bytes(), [&] { columns.spread(rows.data()); });
  }

  // Everything of one number for all agents.
  View constant(const char* data, DType dtype) const {
    View view = vector_view(const_cast<char*>(data), dtype);
    view.stride[0] = 0;
    return view;
  }

  void plan_moves(const View& value, const View& drawn, const View& log_prob, int64_t* bytes) {
    static const bool true_ = true;
    static const float zero_ = 0.0f;
    moves.clear();
    for (size_t l = 0; l < sources.size(); ++l) {
      View from;
      switch (sources[l]) {
        case kMask:
          from =
              absent(entries[kMask]) ? constant(reinterpret_cast<const char*>(&true_), DType::b8) : entries[kMask];
          break;
        case kBaseline:
          from = baseline->views[0];
          from.data += start * from.stride[0] * itemsize(from.dtype);
          from.shape[0] = count;
          break;
        case kZero: from = constant(reinterpret_cast<const char*>(&zero_), DType::f32); break;
        case kOne: from = constant(reinterpret_cast<const char*>(&true_), DType::b8); break;
        case kValue: from = value; break;
        case kLogProb: from = log_prob; break;
        case kAction: from = drawn; break;
        default: from = entries[sources[l]]; break;
      }
      const View& to = leaves->views[l];
      if (sources[l] == kAction && from.ndim != to.ndim - 1) {  // [n] into [S, T, 1]
        from.ndim = 2;
        from.shape[1] = 1;
        from.stride[1] = 1;
      }
      RowMove move = plan_move(to, 2, from, 1);
      move.to_step = to.stride[0] * itemsize(to.dtype);
      move.to += position * to.stride[1] * itemsize(to.dtype);
      moves.push_back(move);
      *bytes += 2 * view_bytes(from);
    }
  }
};

}  // namespace

void bind_act_plan(py::module_& m) {
  py::class_<ActPlan>(m, "ActPlan")
      .def(py::init<py::object, const py::handle&, std::vector<int>, std::vector<int64_t>, bool, py::object>(),
           py::arg("buffer"), py::arg("paths"), py::arg("sources"), py::arg("choices"), py::arg("single"),
           py::arg("cursors"))
      .def("bind", &ActPlan::bind, py::arg("last_actions"), py::arg("baseline"), py::arg("seed"),
           py::arg("first_agent"), py::arg("refuse_truncated"), py::arg("acted"), py::arg("edges"))
      .def("release", &ActPlan::release)
      .def("begin", &ActPlan::begin, py::arg("step"))
      .def("finish", &ActPlan::finish, py::arg("output"), py::arg("actions"));
}

}  // namespace hotloop
