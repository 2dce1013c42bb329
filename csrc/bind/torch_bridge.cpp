#include "torch_bridge.h"

#include <string>

#include "errors.h"

namespace hotloop {
namespace {

struct Bridge {
  PyTypeObject* tensor = nullptr;
  PyTypeObject* parameter = nullptr;
  const dlpack::ExchangeApi* api = nullptr;
  PyObject* is_neg = nullptr;           // torch.Tensor.is_neg, unbound
  PyCFunction is_neg_direct = nullptr;  // its C function where it takes no arguments
  PyObject* requires_grad_name = nullptr;
  getter requires_grad_direct = nullptr;
  void* requires_grad_closure = nullptr;
  PyObject* is_grad_enabled = nullptr;
  PyObject* increment_version = nullptr;  // takes a tuple of tensors
};

Bridge bridge;  // its references live as long as the process, so interpreter shutdown frees nothing twice

// Tensors known not to have the negative bit. Asking torch takes 100 ns (the method releases and retakes the GIL),
// a third of reading a tensor, and training loops pass the same few buffers again and again. The bit is part of a
// tensor's identity; a weak reference tells a live tensor from a new one at the same address, and the pointers tell
// one whose `.data` was replaced.
struct KnownTensor {
  PyObject* reference = nullptr;  // weak
  const void* data = nullptr;
  const void* shape = nullptr;  // lies in torch's own object behind the Python one

  bool is(PyObject* tensor, const dlpack::Tensor& raw) const {
    if (reference == nullptr || data != raw.data || shape != raw.shape) return false;
#if PY_VERSION_HEX >= 0x030D0000
    PyObject* referent = nullptr;
    PyWeakref_GetRef(reference, &referent);
    Py_XDECREF(referent);  // compared by address only, and the caller holds `tensor`
    return referent == tensor;
#else
    return PyWeakref_GET_OBJECT(reference) == tensor;
#endif
  }

  void remember(PyObject* tensor, const dlpack::Tensor& raw) {
    PyObject* fresh = PyWeakref_NewRef(tensor, nullptr);
    if (fresh == nullptr) PyErr_Clear();  // then it is asked again next time
    Py_XDECREF(reference);
    reference = fresh;
    data = raw.data;
    shape = raw.shape;
  }
};

constexpr size_t kKnownTensors = 256;
KnownTensor known_tensors[kKnownTensors];  // used under the GIL only

PyObject* checked(PyObject* object) {
  if (object == nullptr) throw PythonErrorSet{};
  return object;
}

PyObject* attribute(PyObject* object, const char* name) { return checked(PyObject_GetAttrString(object, name)); }

bool is_true(PyObject* result) {
  const bool truth = checked(result) == Py_True;
  Py_DECREF(result);
  return truth;
}

const dlpack::ExchangeApi* find_exchange_api(PyObject* tensor, const std::string& version) {
  if (!PyObject_HasAttrString(tensor, dlpack::kExchangeAttribute)) {
    throw Error(PyExc_ImportError,
                "hotloop needs torch >= 2.10 (its DLPack C exchange API); found torch " + version);
  }
  PyObject* capsule = attribute(tensor, dlpack::kExchangeAttribute);
  // A framework may chain tables of older major versions behind a newer one.
  const auto* header =
      static_cast<const dlpack::ExchangeHeader*>(PyCapsule_GetPointer(capsule, dlpack::kExchangeCapsule));
  if (header == nullptr) throw PythonErrorSet{};
  while (header != nullptr && header->version.major != dlpack::kMajorVersion) header = header->previous;
  const auto* api = reinterpret_cast<const dlpack::ExchangeApi*>(header);
  if (api == nullptr || api->tensor_from_py_object_no_sync == nullptr) {
    throw Error(PyExc_ImportError, "hotloop reads tensors through DLPack exchange API 1.x, which torch " +
                                       version + " does not offer");
  }
  return api;
}

}  // namespace

void init_torch_bridge() {
  PyObject* torch = checked(PyImport_ImportModule("torch"));
  PyObject* tensor = attribute(torch, "Tensor");
  bridge.tensor = reinterpret_cast<PyTypeObject*>(tensor);
  bridge.parameter = reinterpret_cast<PyTypeObject*>(attribute(attribute(torch, "nn"), "Parameter"));
  bridge.api = find_exchange_api(tensor, python_attribute(torch, "__version__"));

  // is_neg and requires_grad are asked of every tensor of every call: their C functions are called directly
  // where CPython's descriptors give them away, through Python otherwise.
  bridge.is_neg = attribute(tensor, "is_neg");
  if (Py_TYPE(bridge.is_neg) == &PyMethodDescr_Type) {
    const PyMethodDef* method = reinterpret_cast<PyMethodDescrObject*>(bridge.is_neg)->d_method;
    if (method->ml_flags == METH_NOARGS) bridge.is_neg_direct = method->ml_meth;
  }
  PyObject* gradient = attribute(tensor, "requires_grad");
  if (Py_TYPE(gradient) == &PyGetSetDescr_Type) {
    const PyGetSetDef* property = reinterpret_cast<PyGetSetDescrObject*>(gradient)->d_getset;
    bridge.requires_grad_direct = property->get;
    bridge.requires_grad_closure = property->closure;
  }
  bridge.requires_grad_name = checked(PyUnicode_InternFromString("requires_grad"));
  bridge.is_grad_enabled = attribute(torch, "is_grad_enabled");
  bridge.increment_version = attribute(attribute(torch, "_C"), "_increment_version");
}

TensorKind tensor_kind(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  if (type == bridge.tensor || type == bridge.parameter) return TensorKind::exact;
  return PyType_IsSubtype(type, bridge.tensor) ? TensorKind::subclass : TensorKind::not_a_tensor;
}

const dlpack::ExchangeApi& exchange_api() { return *bridge.api; }

bool has_negative_bit(PyObject* tensor, const dlpack::Tensor& raw, bool remember) {
  KnownTensor& known = known_tensors[(reinterpret_cast<uintptr_t>(tensor) >> 4) % kKnownTensors];
  if (known.is(tensor, raw)) return false;
  const bool negative = bridge.is_neg_direct != nullptr ? is_true(bridge.is_neg_direct(tensor, nullptr))
                                                        : is_true(PyObject_CallOneArg(bridge.is_neg, tensor));
  if (!negative && remember) known.remember(tensor, raw);
  return negative;
}

bool requires_grad(PyObject* tensor) {
  if (bridge.requires_grad_direct != nullptr) {
    return is_true(bridge.requires_grad_direct(tensor, bridge.requires_grad_closure));
  }
  return is_true(PyObject_GetAttr(tensor, bridge.requires_grad_name));
}

bool grad_mode_enabled() { return is_true(PyObject_CallNoArgs(bridge.is_grad_enabled)); }

void bump_version(PyObject* tensor) {
  // One tuple serves every call unless somebody kept it: a new one each time would feed the garbage collector.
  static PyObject* tensors = nullptr;
  if (tensors == nullptr || Py_REFCNT(tensors) != 1) {
    Py_XDECREF(tensors);
    tensors = checked(PyTuple_New(1));
  }
  Py_INCREF(tensor);
  PyTuple_SET_ITEM(tensors, 0, tensor);
  PyObject* done = PyObject_CallOneArg(bridge.increment_version, tensors);
  if (Py_REFCNT(tensors) == 1) {
    PyTuple_SET_ITEM(tensors, 0, nullptr);
    Py_DECREF(tensor);
  }
  Py_DECREF(checked(done));
}

void bump_versions(PyObject* const* tensors, size_t count) {
  if (count == 0) return;
  PyObject* all = checked(PyTuple_New(static_cast<Py_ssize_t>(count)));
  for (size_t i = 0; i < count; ++i) {
    Py_INCREF(tensors[i]);
    PyTuple_SET_ITEM(all, static_cast<Py_ssize_t>(i), tensors[i]);
  }
  PyObject* done = PyObject_CallOneArg(bridge.increment_version, all);
  Py_DECREF(all);
  Py_DECREF(checked(done));
}

}  // namespace hotloop
