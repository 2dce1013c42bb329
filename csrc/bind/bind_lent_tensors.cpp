#include <vector>

#include "bind_plans.h"
#include "bound_call.h"
#include "numpy_arrays.h"
#include "torch_bridge.h"

namespace hotloop {

namespace py = pybind11;

namespace {

// Tensors over NumPy arrays whose memory comes again, as that of environments which write each step into the same
// arrays. A tensor that was made keeps its array alive, and with it the memory: an array at the same place is that
// memory, and the same tensor stands for it.
struct LentTensors {
  // What torch says of a tensor: whether somebody has changed it in place since it was made.
  struct Made {
    void* data = nullptr;
    dlpack::DataType dtype{};
    int32_t ndim = -1;
    int64_t shape[kMaxDims], stride[kMaxDims];

    bool read(PyObject* tensor) {
      dlpack::Tensor raw{};
      if (tensor_kind(tensor) != TensorKind::exact) return false;
      if (exchange_api().tensor_from_py_object_no_sync(tensor, &raw) != 0) {
        PyErr_Clear();
        return false;
      }
      if (raw.device.type != dlpack::kCPU || raw.ndim > kMaxDims || raw.strides == nullptr) return false;
      if ((raw.dtype.code == dlpack::kFloat || raw.dtype.code == dlpack::kBfloat) && requires_grad(tensor)) {
        return false;
      }
      data = static_cast<char*>(raw.data) + raw.byte_offset;
      dtype = raw.dtype;
      ndim = raw.ndim;
      for (int32_t d = 0; d < ndim; ++d) {
        shape[d] = raw.shape[d];
        stride[d] = raw.strides[d];
      }
      return true;
    }

    bool operator==(const Made& other) const {
      if (data != other.data || ndim != other.ndim || dtype.code != other.dtype.code ||
          dtype.bits != other.dtype.bits) {
        return false;
      }
      for (int32_t d = 0; d < ndim; ++d) {
        if (shape[d] != other.shape[d] || stride[d] != other.stride[d]) return false;
      }
      return true;
    }
  };

  struct Entry {
    std::vector<ArrayPlace> places;
    std::vector<Made> made;
    py::object arrays, tensors;  // tuples
  };

  py::object make;  // a tensor of anything
  size_t limit;
  std::vector<Entry> entries;
  std::vector<ArrayPlace> places;  // scratch
  bool given_up = false;

  LentTensors(py::object make_, int64_t limit_) : make(std::move(make_)), limit(static_cast<size_t>(limit_)) {
    if (limit_ < 0) value_error("LentTensors", "limit", "at least 0", std::to_string(limit_));
  }

  py::object tensors(PyObject* const* args) {
    if (!PyTuple_Check(args[0])) type_error("LentTensors.tensors", "arrays", "a tuple", Py_TYPE(args[0])->tp_name);
    const auto arrays = py::reinterpret_borrow<py::tuple>(args[0]);
    const bool places_known = !given_up && read_places(arrays);
    for (size_t e = 0; places_known && e < entries.size(); ++e) {
      if (!(entries[e].places == places)) continue;
      if (unchanged(entries[e])) return entries[e].tensors;
      entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(e));
      break;
    }
    py::tuple found(arrays.size());
    for (size_t i = 0; i < arrays.size(); ++i) found[i] = make(arrays[i]);
    if (places_known) remember(arrays, found);
    return std::move(found);
  }

  void forget() {
    entries.clear();
    given_up = false;
  }

  size_t held() const { return entries.size(); }

 private:
  bool read_places(const py::tuple& arrays) {
    places.resize(arrays.size());
    for (size_t i = 0; i < places.size(); ++i) {
      if (!places[i].read(PyTuple_GET_ITEM(arrays.ptr(), static_cast<Py_ssize_t>(i)))) return false;
    }
    return true;
  }

  static bool unchanged(const Entry& entry) {
    for (size_t i = 0; i < entry.made.size(); ++i) {
      Made now;
      if (!now.read(PyTuple_GET_ITEM(entry.tensors.ptr(), static_cast<Py_ssize_t>(i))) ||
          !(now == entry.made[i])) {
        return false;
      }
    }
    return true;
  }

  // More places than it was told to expect: they do not come again, and what is held of them only costs memory.
  void remember(const py::tuple& arrays, const py::tuple& found) {
    if (entries.size() >= limit) {
      entries.clear();
      given_up = true;
      return;
    }
    Entry entry;
    entry.places = places;
    entry.made.resize(found.size());
    for (size_t i = 0; i < entry.made.size(); ++i) {
      if (!entry.made[i].read(PyTuple_GET_ITEM(found.ptr(), static_cast<Py_ssize_t>(i)))) return;
      if (entry.made[i].data != entry.places[i].data) return;  // a copy
    }
    entry.arrays = arrays;
    entry.tensors = found;
    entries.push_back(std::move(entry));
  }
};

}  // namespace

void bind_lent_tensors(py::module_& m) {
  py::class_<LentTensors>(m, "LentTensors")
      .def(py::init<py::object, int64_t>(), py::arg("make"), py::arg("limit"))
      .def_property_readonly("tensors",
                             [](const py::object& self) {
                               return BoundCall<LentTensors, 1, &LentTensors::tensors>::of(self, "tensors");
                             })
      .def("forget", &LentTensors::forget)
      .def("held", &LentTensors::held);
}

}  // namespace hotloop
