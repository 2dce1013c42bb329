#include "plan_leaves.h"

#include "torch_bridge.h"

namespace hotloop {

namespace py = pybind11;

namespace {

// The dict that a TensorDict keeps its entries in: a look-up there costs a tenth of td[key]. Null for what has none
// (other classes of TensorDict, mappings), which is then asked key by key.
py::object entries_of(const py::object& container) {
  static PyObject* const name = PyUnicode_InternFromString("_tensordict");
  if (PyDict_Check(container.ptr())) return container;
  PyObject* entries = PyObject_GetAttr(container.ptr(), name);
  if (entries == nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw PythonErrorSet{};
    PyErr_Clear();
    return py::object();
  }
  py::object owned = py::reinterpret_steal<py::object>(entries);
  return PyDict_Check(entries) ? owned : py::object();
}

bool apart(const ByteRange& a, const ByteRange& b) { return a.end <= b.begin || b.end <= a.begin; }

}  // namespace

void HeldTensors::hold_all(const py::tuple& tensors) {
  objects.reserve(tensors.size());
  for (const py::handle& tensor : tensors) hold(py::reinterpret_borrow<py::object>(tensor));
}

void HeldTensors::read(const char* op) {
  views.reserve(objects.size());
  ranges.reserve(objects.size());
  for (size_t i = 0; i < objects.size(); ++i) {
    views.push_back(read_tensor(op, name(i), objects[i].ptr()));
    ranges.push_back(byte_range(views.back()));
  }
}

void HeldTensors::mark_written() const {
  std::vector<PyObject*> tensors;
  tensors.reserve(objects.size());
  for (const py::object& object : objects) tensors.push_back(object.ptr());
  bump_versions(tensors.data(), tensors.size());
}

void expect_own_memory(const char* op, const HeldTensors& written) {
  for (size_t i = 0; i < written.views.size(); ++i) {
    expect_no_self_overlap(op, written.name(i), written.views[i]);
    for (size_t j = 0; j < i; ++j) {
      if (apart(written.ranges[i], written.ranges[j])) continue;
      expect_disjoint(op, written.name(i), written.views[i], written.name(j), written.views[j]);
    }
  }
}

void expect_apart(const char* op, const HeldTensors& written, const HeldTensors& read) {
  for (size_t i = 0; i < written.views.size(); ++i) {
    for (size_t j = 0; j < read.views.size(); ++j) {
      if (apart(written.ranges[i], read.ranges[j])) continue;
      expect_disjoint(op, written.name(i), written.views[i], read.name(j), read.views[j]);
    }
  }
}

LeafPaths::LeafPaths(const char* op, const py::handle& paths) {
  for (const py::handle& path : paths) {
    if (!PyTuple_Check(path.ptr()) || PyTuple_GET_SIZE(path.ptr()) == 0) {
      type_error(op, "paths", "non-empty tuples of keys", Py_TYPE(path.ptr())->tp_name);
    }
    paths_.push_back(py::reinterpret_borrow<py::tuple>(path));
  }
}

std::vector<std::string> LeafPaths::names(const char* arg) const {
  std::vector<std::string> names;
  for (const py::tuple& path : paths_) {
    std::string name = std::string(arg) + "[";
    for (size_t i = 0; i < path.size(); ++i) name += (i ? "." : "") + python_str(path[i].ptr());
    names.push_back(name + "]");
  }
  return names;
}

py::object LeafPaths::find(const py::handle& root, size_t leaf) const {
  py::object current = py::reinterpret_borrow<py::object>(root);
  for (const py::handle& key : paths_[leaf]) {
    const py::object entries = entries_of(current);
    PyObject* next;
    if (entries) {
      next = PyDict_GetItemWithError(entries.ptr(), key.ptr());
      Py_XINCREF(next);
      if (next == nullptr && !PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, key.ptr());
    } else {
      next = PyObject_GetItem(current.ptr(), key.ptr());
    }
    if (next == nullptr) return py::object();
    current = py::reinterpret_steal<py::object>(next);
  }
  return current;
}

void LeafPaths::find_all(const char* op, const char* arg, const py::handle& root, HeldTensors* out) const {
  out->objects.reserve(paths_.size());
  if (!PyList_Check(root.ptr()) && !PyTuple_Check(root.ptr())) {
    for (size_t l = 0; l < paths_.size(); ++l) {
      py::object leaf = find(root, l);
      if (!leaf) throw PythonErrorSet{};
      out->hold(std::move(leaf));
    }
    return;
  }
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(root.ptr());
  if (static_cast<size_t>(count) != paths_.size()) {
    value_error(op, arg, "one tensor for each of the " + std::to_string(paths_.size()) + " leaves",
                std::to_string(count));
  }
  for (Py_ssize_t l = 0; l < count; ++l) {
    out->hold(py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(root.ptr(), l)));
  }
}

bool same_view(const View& a, const View& b) {
  if (a.data != b.data || a.dtype != b.dtype || a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != b.shape[i] || a.stride[i] != b.stride[i]) return false;
  }
  return true;
}

}  // namespace hotloop
