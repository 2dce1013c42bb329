#include <algorithm>
#include <cstring>
#include <vector>

#include "bind_plans.h"
#include "errors.h"
#include "lent_buffer.h"
#include "tensor_arg.h"

namespace hotloop {

namespace py = pybind11;

namespace {

// The buffers that an adapter hands its steps out in, and the returns and lengths of the running episodes.
struct StepBooks {
  static constexpr const char* kOp = "StepBooks";
  py::tuple arrays;  // keeps them alive, beside the buffers that they lend
  LentBuffer observations, rewards, terminals, truncations, mask, returns, lengths;
  int64_t agents = 0, first_agent = 0;
  bool next_step = false;
  std::vector<int64_t> ended;  // agents whose episode the newest step ended

  StepBooks(py::tuple arrays_, int64_t first_agent_, bool next_step_)
      : arrays(std::move(arrays_)), first_agent(first_agent_), next_step(next_step_) {
    if (arrays.size() != 7) value_error(kOp, "arrays", "7 arrays", std::to_string(arrays.size()));
    agents = static_cast<int64_t>(py::len(arrays[1]));
    hold(observations, 0, "observations", nullptr, 0);
    hold(rewards, 1, "rewards", "f", 4);
    hold(terminals, 2, "terminals", "?", 1);
    hold(truncations, 3, "truncations", "?", 1);
    hold(mask, 4, "mask", "?", 1);
    hold(returns, 5, "returns", "d", 8);
    hold(lengths, 6, "lengths", "lq", 8);
  }

  void hold(LentBuffer& buffer, size_t i, const char* name, const char* formats, Py_ssize_t itemsize) {
    const bool fits = buffer.take(py::object(arrays[i]).ptr(), true) &&
                      (formats == nullptr ? buffer.get().ndim >= 1 && buffer.get().shape[0] == agents
                                          : buffer.is(formats, itemsize, agents));
    if (!fits) {
      type_error(kOp, name, "a C-contiguous array [n] of the adapter's own",
                 python_str(py::type::of(arrays[i]).ptr()));
    }
  }

  // Observations of the same dtype and shape, in rows or (matrices) in columns.
  bool takes(const LentBuffer& given) const {
    const Py_buffer &from = given.get(), &to = observations.get();
    bool same = from.ndim == to.ndim && from.itemsize == to.itemsize && from.format != nullptr &&
                to.format != nullptr && std::strcmp(from.format, to.format) == 0;
    for (int d = 0; same && d < to.ndim; ++d) same = from.shape[d] == to.shape[d];
    return same && (PyBuffer_IsContiguous(&from, 'C') || (from.ndim == 2 && from.itemsize == 4));
  }

  void copy_observations(const LentBuffer& given) const {
    const Py_buffer &from = given.get(), &to = observations.get();
    if (PyBuffer_IsContiguous(&from, 'C')) {
      std::memmove(to.buf, from.buf, static_cast<size_t>(to.len));
      return;
    }
    char* out = static_cast<char*>(to.buf);
    for (Py_ssize_t i = 0; i < to.shape[0]; ++i) {
      const char* row = static_cast<const char*>(from.buf) + i * from.strides[0];
      for (Py_ssize_t j = 0; j < to.shape[1]; ++j, out += 4) std::memcpy(out, row + j * from.strides[1], 4);
    }
  }

  // Takes in a step. Returns (episodes that it ended, rows whose next action counts, whether it truncated any); None,
  // and nothing is taken in, where an array is of another kind than the adapter's.
  py::object take(const py::handle& observations_, const py::handle& rewards_, const py::handle& terminals_,
                  const py::handle& truncations_) {
    LentBuffer obs, reward, terminal, truncation;
    const bool plain = obs.take(observations_.ptr(), false, true) && takes(obs) &&
                       reward.take(rewards_.ptr(), false) && terminal.take(terminals_.ptr(), false) &&
                       truncation.take(truncations_.ptr(), false) && terminal.is("?", 1, agents) &&
                       truncation.is("?", 1, agents) && (reward.is("d", 8, agents) || reward.is("f", 4, agents));
    if (!plain) return py::none();
    run_kernel(2 * observations.get().len, [&] { copy_observations(obs); });
    if (reward.format() == 'd') {
      add(reward.data<double>());
    } else {
      add(reward.data<float>());
    }
    bool truncated = false;
    const int64_t steps = take_flags(terminal.data<bool>(), truncation.data<bool>(), &truncated);
    return py::make_tuple(finished(), steps, truncated);
  }

  // The mask still is that of the rows the actions were sent from: false where this step only reset.
  template <class T>
  void add(const T* given) {
    float* const own = rewards.data<float>();
    double* const sums = returns.data<double>();
    int64_t* const steps = lengths.data<int64_t>();
    const bool* const counts = mask.data<bool>();
    for (int64_t i = 0; i < agents; ++i) {
      const bool acted = !next_step | counts[i];
      own[i] = static_cast<float>(given[i]);
      sums[i] += acted ? static_cast<double>(given[i]) : 0.0;
      steps[i] += acted;
    }
  }

  // The flags and the mask, and which episodes ended. Returns how many rows of the mask are true.
  int64_t take_flags(const bool* terminal, const bool* truncation, bool* truncated) {
    constexpr int64_t kTogether = 8;  // looked at as one number, which mostly is 0
    bool *over = terminals.data<bool>(), *cut = truncations.data<bool>(), *counts = mask.data<bool>();
    std::memmove(over, terminal, static_cast<size_t>(agents));
    std::memmove(cut, truncation, static_cast<size_t>(agents));
    int64_t steps = agents;
    ended.clear();
    for (int64_t first = 0; first < agents; first += kTogether) {
      const int64_t count = std::min(kTogether, agents - first);
      uint64_t overs = 0, cuts = 0;
      std::memcpy(&overs, over + first, static_cast<size_t>(count));
      std::memcpy(&cuts, cut + first, static_cast<size_t>(count));
      if ((overs | cuts) == 0) {
        if (next_step) std::memset(counts + first, 1, static_cast<size_t>(count));
        continue;
      }
      *truncated |= cuts != 0;
      for (int64_t i = first; i < first + count; ++i) {
        const bool done = over[i] || cut[i];
        if (done && (!next_step || counts[i])) ended.push_back(i);  // else there was no episode to end
        if (next_step) {
          counts[i] = !done;
          steps -= done;
        }
      }
    }
    return steps;
  }

  static void set(PyObject* episode, PyObject* key, PyObject* value) {
    const py::object held = py::reinterpret_steal<py::object>(value);
    if (!held || PyDict_SetItem(episode, key, value) != 0) throw py::error_already_set();
  }

  // What `ended` names, one dict an episode.
  py::list finished() {
    static PyObject* const return_key = PyUnicode_InternFromString("episode_return");  // as long as the process
    static PyObject* const length_key = PyUnicode_InternFromString("episode_length");
    static PyObject* const agent_key = PyUnicode_InternFromString("agent_id");
    py::list episodes(ended.size());
    double* const sums = returns.data<double>();
    int64_t* const steps = lengths.data<int64_t>();
    for (size_t e = 0; e < ended.size(); ++e) {
      const int64_t i = ended[e];
      py::dict episode;
      set(episode.ptr(), return_key, PyFloat_FromDouble(sums[i]));
      set(episode.ptr(), length_key, PyLong_FromLongLong(steps[i]));
      set(episode.ptr(), agent_key, PyLong_FromLongLong(first_agent + i));
      PyList_SET_ITEM(episodes.ptr(), static_cast<Py_ssize_t>(e), episode.release().ptr());
      sums[i] = 0.0;
      steps[i] = 0;
    }
    return episodes;
  }
};

template <class To, class From>
bool convert(const From* actions, const int64_t* limits, const int64_t* first, Py_ssize_t components,
             Py_ssize_t count, To* values) {
  bool inside = true;
  for (Py_ssize_t i = 0, c = 0; i < count; ++i) {
    const int64_t choice = actions[i];
    inside &= choice >= 0 && choice < limits[c];
    values[i] = static_cast<To>(choice + first[c]);
    if (++c == components) c = 0;
  }
  return inside;
}

// Choices counted from 0 to values of an action space: out[i] = actions[i] + start, int32 or int64, where every action
// lies below its count, of which there is one for each of the out.size / rows components of a row. False, and `out`
// holds nothing that counts, for other arrays and for a choice out of range.
bool convert_choices(const py::handle& actions, const py::handle& counts, const py::handle& starts,
                     const py::handle& out) {
  LentBuffer from, limit, start, to;
  if (!from.take(actions.ptr(), false) || !limit.take(counts.ptr(), false) || !start.take(starts.ptr(), false) ||
      !to.take(out.ptr(), true)) {
    return false;
  }
  const Py_ssize_t components = limit.get().len / 8, count = to.get().len / to.get().itemsize;
  const bool reads_wide = from.is("lq", 8, count), writes_wide = to.is("lq", 8, count);
  if (components < 1 || !limit.is("lq", 8, components) || !start.is("lq", 8, components) ||
      count % components != 0 || !(writes_wide || to.is("i", 4, count)) ||
      !(reads_wide || from.is("i", 4, count))) {
    return false;
  }
  const int64_t *limits = limit.data<int64_t>(), *first = start.data<int64_t>();
  if (reads_wide && writes_wide) {
    return convert(from.data<int64_t>(), limits, first, components, count, to.data<int64_t>());
  }
  if (reads_wide) return convert(from.data<int64_t>(), limits, first, components, count, to.data<int32_t>());
  if (writes_wide) return convert(from.data<int32_t>(), limits, first, components, count, to.data<int64_t>());
  return convert(from.data<int32_t>(), limits, first, components, count, to.data<int32_t>());
}

}  // namespace

void bind_step_books(py::module_& m) {
  py::class_<StepBooks>(m, "StepBooks")
      .def(py::init<py::tuple, int64_t, bool>(), py::arg("arrays"), py::arg("first_agent"), py::arg("next_step"))
      .def("take", &StepBooks::take, py::arg("observations"), py::arg("rewards"), py::arg("terminals"),
           py::arg("truncations"));
  m.def("convert_choices", &convert_choices, py::arg("actions"), py::arg("counts"), py::arg("starts"),
        py::arg("out"));
}

}  // namespace hotloop
