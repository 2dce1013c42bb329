#include "torch_bridge.h"

#include <string>

namespace hotloop {
namespace {

struct Bridge {
  PyTypeObject* tensor = nullptr;
  PyTypeObject* parameter = nullptr;
  const dlpack::ExchangeApi* api = nullptr;
  PyObject* is_neg = nullptr;            // torch.Tensor.is_neg, unbound
  PyCFunction is_neg_direct = nullptr;   // its C function where it takes no arguments
  PyObject* requires_grad_name = nullptr;
  getter requires_grad_direct = nullptr;
  void* requires_grad_closure = nullptr;
  PyObject* is_grad_enabled = nullptr;
  PyObject* increment_version = nullptr;  // takes a tuple of tensors
};

Bridge bridge;  // references are kept for the life of the process, so interpreter shutdown frees nothing twice

PyObject* keep(py::object object) { return object.release().ptr(); }

bool is_true(PyObject* result) {
  if (result == nullptr) throw py::error_already_set();
  const bool truth = result == Py_True;
  Py_DECREF(result);
  return truth;
}

}  // namespace

void init_torch_bridge() {
  py::module_ torch = py::module_::import("torch");
  py::object tensor = torch.attr("Tensor");
  bridge.tensor = reinterpret_cast<PyTypeObject*>(keep(tensor));
  bridge.parameter = reinterpret_cast<PyTypeObject*>(keep(torch.attr("nn").attr("Parameter")));

  const std::string version = py::str(torch.attr("__version__"));
  if (!py::hasattr(tensor, dlpack::kExchangeAttribute)) {
    throw py::import_error("hotloop needs torch >= 2.10 (its DLPack C exchange API); found torch " + version);
  }
  py::object capsule = tensor.attr(dlpack::kExchangeAttribute);
  void* pointer = PyCapsule_GetPointer(capsule.ptr(), dlpack::kExchangeCapsule);
  if (pointer == nullptr) throw py::error_already_set();
  // A framework may chain tables of older major versions behind a newer one.
  const auto* header = static_cast<const dlpack::ExchangeHeader*>(pointer);
  while (header != nullptr && header->version.major != dlpack::kMajorVersion) header = header->previous;
  const auto* api = reinterpret_cast<const dlpack::ExchangeApi*>(header);
  if (api == nullptr || api->tensor_from_py_object_no_sync == nullptr) {
    throw py::import_error("hotloop reads tensors through DLPack exchange API 1.x, which torch " + version +
                           " does not offer");
  }
  bridge.api = api;
  keep(capsule);

  // is_neg and requires_grad are asked of every tensor of every call: their C functions are called directly
  // (10 to 60 ns each) where CPython's descriptors give them away, through Python otherwise.
  py::object is_neg = tensor.attr("is_neg");
  if (Py_TYPE(is_neg.ptr()) == &PyMethodDescr_Type) {
    const PyMethodDef* method = reinterpret_cast<PyMethodDescrObject*>(is_neg.ptr())->d_method;
    if (method->ml_flags == METH_NOARGS) bridge.is_neg_direct = method->ml_meth;
  }
  bridge.is_neg = keep(is_neg);
  py::object gradient = tensor.attr("requires_grad");
  if (Py_TYPE(gradient.ptr()) == &PyGetSetDescr_Type) {
    const PyGetSetDef* property = reinterpret_cast<PyGetSetDescrObject*>(gradient.ptr())->d_getset;
    bridge.requires_grad_direct = property->get;
    bridge.requires_grad_closure = property->closure;
  }
  bridge.requires_grad_name = keep(py::str("requires_grad"));
  bridge.is_grad_enabled = keep(torch.attr("is_grad_enabled"));
  bridge.increment_version = keep(torch.attr("_C").attr("_increment_version"));
}

TensorKind tensor_kind(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  if (type == bridge.tensor || type == bridge.parameter) return TensorKind::exact;
  return PyType_IsSubtype(type, bridge.tensor) ? TensorKind::subclass : TensorKind::not_a_tensor;
}

const dlpack::ExchangeApi& exchange_api() { return *bridge.api; }

bool has_negative_bit(PyObject* tensor) {
  if (bridge.is_neg_direct != nullptr) return is_true(bridge.is_neg_direct(tensor, nullptr));
  return is_true(PyObject_CallOneArg(bridge.is_neg, tensor));
}

bool requires_grad(PyObject* tensor) {
  if (bridge.requires_grad_direct != nullptr) {
    return is_true(bridge.requires_grad_direct(tensor, bridge.requires_grad_closure));
  }
  return is_true(PyObject_GetAttr(tensor, bridge.requires_grad_name));
}

bool grad_mode_enabled() { return is_true(PyObject_CallNoArgs(bridge.is_grad_enabled)); }

void bump_version(PyObject* tensor) {
  py::tuple tensors = py::make_tuple(py::handle(tensor));
  py::object done = py::reinterpret_steal<py::object>(PyObject_CallOneArg(bridge.increment_version, tensors.ptr()));
  if (!done) throw py::error_already_set();
}

std::string torch_type_name(PyObject* object) { return Py_TYPE(object)->tp_name; }

}  // namespace hotloop
