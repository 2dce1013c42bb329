// NumPy's arrays beside torch's tensors: what an array says of its memory, and an array over a tensor's.
#pragma once
#include <pybind11/numpy.h>

#include "tensor_arg.h"

namespace hotloop {

// Where an array's numbers lie and of what kind they are. Two that live at the same time and are the same in this
// are the same memory read the same way.
struct ArrayPlace {
  const char* data = nullptr;
  PyObject* descr = nullptr;  // borrowed from the array
  int ndim = -1;
  ssize_t shape[kMaxDims], stride[kMaxDims];  // in bytes

  // False for what is no plain array that may be written to, and for one without elements or of many dimensions.
  bool read(PyObject* object) {
    const auto& numpy = pybind11::detail::npy_api::get();
    if (Py_TYPE(object) != numpy.PyArray_Type_) return false;
    const auto* array = pybind11::detail::array_proxy(object);
    if ((array->flags & pybind11::detail::npy_api::NPY_ARRAY_WRITEABLE_) == 0 || array->nd > kMaxDims)
      return false;
    data = array->data;
    descr = array->descr;
    ndim = array->nd;
    for (int d = 0; d < ndim; ++d) {
      if (array->dimensions[d] == 0) return false;
      shape[d] = array->dimensions[d];
      stride[d] = array->strides[d];
    }
    return true;
  }

  bool operator==(const ArrayPlace& other) const {
    if (data != other.data || descr != other.descr || ndim != other.ndim) return false;
    for (int d = 0; d < ndim; ++d) {
      if (shape[d] != other.shape[d] || stride[d] != other.stride[d]) return false;
    }
    return true;
  }
};

inline int numpy_type(DType dtype) {  // -1 where NumPy has none, or pybind11 has no name for it
  using Numpy = pybind11::detail::npy_api;
  switch (dtype) {
    case DType::b8: return Numpy::NPY_BOOL_;
    case DType::u8: return Numpy::NPY_UINT8_;
    case DType::i8: return Numpy::NPY_INT8_;
    case DType::i16: return Numpy::NPY_INT16_;
    case DType::i32: return Numpy::NPY_INT32_;
    case DType::i64: return Numpy::NPY_INT64_;
    case DType::f32: return Numpy::NPY_FLOAT32_;
    case DType::f64: return Numpy::NPY_FLOAT64_;
    default: return -1;
  }
}

// An array in a tensor's memory, as of Tensor.numpy() or numpy.from_dlpack: it keeps the tensor alive. None where
// NumPy has no such dtype. (Unlike after Tensor.numpy() torch does not refuse to resize the tensor.)
inline pybind11::object array_of(PyObject* tensor, const View& view) {
  const int type = numpy_type(view.dtype);
  if (type < 0) return pybind11::none();
  const auto& numpy = pybind11::detail::npy_api::get();
  Py_intptr_t shape[kMaxDims], stride[kMaxDims];
  for (int d = 0; d < view.ndim; ++d) {
    shape[d] = view.shape[d];
    stride[d] = view.stride[d] * itemsize(view.dtype);
  }
  PyObject* descr = numpy.PyArray_DescrFromType_(type);
  if (descr == nullptr) throw PythonErrorSet{};
  PyObject* array = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, descr, view.ndim, shape, stride, view.data,
                                                pybind11::detail::npy_api::NPY_ARRAY_WRITEABLE_, nullptr);
  if (array == nullptr) throw PythonErrorSet{};
  auto result = pybind11::reinterpret_steal<pybind11::object>(array);
  Py_INCREF(tensor);
  if (numpy.PyArray_SetBaseObject_(array, tensor) != 0) throw PythonErrorSet{};  // it takes the reference anyhow
  return result;
}

}  // namespace hotloop
