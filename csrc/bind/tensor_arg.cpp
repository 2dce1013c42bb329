#include "tensor_arg.h"

#include <chrono>
#include <cmath>
#include <numeric>
#include <thread>

#include "device_module.h"
#include "torch_bridge.h"
#if defined(HL_BIND_CUDA)
#include "cuda_call.h"
#endif

namespace hotloop {
namespace {

bool dtype_of(const dlpack::DataType& type, DType* out) {
  if (type.lanes != 1) return false;
  const int key = type.code * 256 + type.bits;
  switch (key) {
    case dlpack::kBool * 256 + 8: *out = DType::b8; return true;
    case dlpack::kUInt * 256 + 8: *out = DType::u8; return true;
    case dlpack::kInt * 256 + 8: *out = DType::i8; return true;
    case dlpack::kInt * 256 + 16: *out = DType::i16; return true;
    case dlpack::kInt * 256 + 32: *out = DType::i32; return true;
    case dlpack::kInt * 256 + 64: *out = DType::i64; return true;
    case dlpack::kFloat * 256 + 16: *out = DType::f16; return true;
    case dlpack::kBfloat * 256 + 16: *out = DType::bf16; return true;
    case dlpack::kFloat * 256 + 32: *out = DType::f32; return true;
    case dlpack::kFloat * 256 + 64: *out = DType::f64; return true;
    default: return false;
  }
}

// What torch says of a tensor it cannot export (sparse, quantised, meta, ...).
[[noreturn]] void refuse_export(const char* op, const char* arg, PyObject* object) {
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  const std::string reason = value != nullptr ? python_str(value) : "no reason given";
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(traceback);
  type_error(op, arg, "a dense torch.Tensor on the CPU",
             python_attribute(object, "layout") + " " + python_attribute(object, "dtype") + " on " +
                 python_attribute(object, "device") + " (" + reason + ")");
}

// Of what no tensor of torch's says, but the table that it hands out may be another's.
[[noreturn]] void refuse_description(const char* op, const char* arg, const char* what) {
  type_error(op, arg, "a tensor that its DLPack description fits", std::string("one with ") + what);
}

constexpr double kMaxElements = 1e15;  // times the largest item far below 2^63, and above what any machine holds

#if defined(HL_BIND_CUDA)
void check_device(const char* op, const char* arg, PyObject* object, const dlpack::Device& device) {
  expect_device(op, arg, object, device);
}
#else
inline void check_device(const char* op, const char* arg, PyObject* object, const dlpack::Device& device) {
  if (device.type == dlpack::kCPU || device.type == dlpack::kCUDAHost) return;
  const std::string message =
      expectation(op, arg, "a tensor on the CPU", "one on " + python_attribute(object, "device"));
  if (device.type == dlpack::kCUDA) throw NeedsDevice(PyExc_TypeError, message);
  throw Error(PyExc_TypeError, message);
}
#endif

int64_t stride_gcd(const View& view, int64_t gcd) {
  for (int i = 0; i < view.ndim; ++i) {
    if (view.shape[i] > 1) gcd = std::gcd(gcd, view.stride[i] * itemsize(view.dtype));
  }
  return gcd;
}

// True where the two provably share no byte: disjoint ranges, or interleaved ones (x[..., 0] and x[..., 1]).
bool disjoint(const View& a, const View& b) {
  if (view_numel(a) == 0 || view_numel(b) == 0) return true;
  const ByteRange ra = byte_range(a), rb = byte_range(b);
  if (ra.end <= rb.begin || rb.end <= ra.begin) return true;
  const int64_t gcd = stride_gcd(b, stride_gcd(a, 0));
  if (gcd == 0) return false;
  int64_t offset = (b.data - a.data) % gcd;
  if (offset < 0) offset += gcd;
  return offset >= itemsize(a.dtype) && offset + itemsize(b.dtype) <= gcd;
}

}  // namespace

ByteRange byte_range(const View& view) {
  const int64_t size = itemsize(view.dtype);
  int64_t low = 0, high = 0;
  if (view_numel(view) == 0) return {view.data, view.data};  // it may have no memory at all
  for (int i = 0; i < view.ndim; ++i) {
    const int64_t extent = (view.shape[i] - 1) * view.stride[i];
    (extent < 0 ? low : high) += extent;
  }
  return {view.data + low * size, view.data + (high + 1) * size};
}

View read_tensor(const char* op, const char* arg, PyObject* object, bool comes_again) {
  switch (tensor_kind(object)) {
    case TensorKind::exact: break;
    case TensorKind::subclass: throw NeedsDispatcher{};
    case TensorKind::not_a_tensor: {
      const std::string type = Py_TYPE(object)->tp_name;
      type_error(op, arg, "a torch.Tensor",
                 type == "numpy.ndarray" ? type + " (wrap it with torch.from_numpy)" : type);
    }
  }
  dlpack::Tensor raw{};
  if (exchange_api().tensor_from_py_object_no_sync(object, &raw) != 0) refuse_export(op, arg, object);
  check_device(op, arg, object, raw.device);
  View view;
  if (!dtype_of(raw.dtype, &view.dtype)) {
    type_error(op, arg, "of a real dtype of at most 64 bits", python_attribute(object, "dtype"));
  }
  if (is_floating(view.dtype)) {  // only these can be negated lazily or require grad
    if (has_negative_bit(object, raw, comes_again)) {
      value_error(op, arg, "a tensor whose memory holds its values",
                  "a view with the negative bit set (call .resolve_neg() first)");
    }
    if (requires_grad(object) && grad_mode_enabled()) {
      value_error(op, arg, "a tensor that does not require grad (the op is not differentiable)",
                  "requires_grad=True (pass .detach() or call under torch.no_grad())");
    }
  }
  if (raw.ndim > kMaxDims) {
    value_error(op, arg, "of at most " + std::to_string(kMaxDims) + " dimensions",
                std::to_string(raw.ndim) + " dimensions");
  }
  if (raw.ndim < 0 || (raw.ndim > 0 && raw.shape == nullptr)) refuse_description(op, arg, "no dimensions");
  view.ndim = raw.ndim;
  // Extents are added up as floating numbers, which do not wrap around: the kernels multiply them unchecked.
  double numel = 1, reach = 0;
  uint64_t compact = 1;
  for (int i = raw.ndim - 1; i >= 0; --i) {
    view.shape[i] = raw.shape[i];
    view.stride[i] = raw.strides != nullptr ? raw.strides[i] : static_cast<int64_t>(compact);
    compact *= static_cast<uint64_t>(raw.shape[i]);
    if (raw.shape[i] < 0) refuse_description(op, arg, "a negative size");
    numel *= static_cast<double>(raw.shape[i]);
    reach += static_cast<double>(raw.shape[i]) * std::fabs(static_cast<double>(view.stride[i]));
  }
  view.data = static_cast<char*>(raw.data) + raw.byte_offset;
  if (numel == 0) {
    for (int i = 0; i < raw.ndim; ++i) view.stride[i] = 0;  // any are allowed where nothing is read
  } else {
    if (numel > kMaxElements || reach > kMaxElements)
      refuse_description(op, arg, "sizes or strides beyond memory");
    if (raw.data == nullptr) type_error(op, arg, "a tensor with memory", "one without (fake or meta)");
    if ((reinterpret_cast<uintptr_t>(view.data) & static_cast<uintptr_t>(itemsize(view.dtype) - 1)) != 0) {
      value_error(op, arg, "aligned to its element size", "an unaligned address (call .clone() first)");
    }
  }
  return view;
}

void* tensor_memory(const char* op, PyObject* tensor) {
  dlpack::Tensor raw{};
  if (exchange_api().tensor_from_py_object_no_sync(tensor, &raw) != 0) refuse_export(op, "scratch", tensor);
  return static_cast<char*>(raw.data) + raw.byte_offset;
}

std::vector<View> read_tensors(const char* op, const char* arg, PyObject* sequence) {
  if (!PyList_Check(sequence) && !PyTuple_Check(sequence)) {
    type_error(op, arg, "a list or tuple of torch.Tensor", Py_TYPE(sequence)->tp_name);
  }
  std::vector<View> views;
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
  views.reserve(static_cast<size_t>(count));
  std::string name;  // one buffer for all: building each anew would take as long as reading the tensor
  for (Py_ssize_t i = 0; i < count; ++i) {
    name.assign(arg).append(1, '[').append(std::to_string(i)).append(1, ']');
    views.push_back(read_tensor(op, name.c_str(), PySequence_Fast_GET_ITEM(sequence, i)));
  }
  return views;
}

void take_gil_back(PyThreadState* state) {
  try {
    PyEval_RestoreThread(state);
  } catch (...) {
    // CPython has called pthread_exit, which unwinds the stack: through destructors that let no exception pass, and
    // through others that give up references in an interpreter that is gone. CPython 3.14 stops such threads too.
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

void expect_ndim(const char* op, const char* arg, const View& view, int ndim, const char* layout) {
  if (view.ndim != ndim) value_error(op, arg, layout, describe(view));
}

void refuse_shape(const char* op, const char* arg, const View& view, std::initializer_list<int64_t> shape,
                  const char* layout) {
  View wanted;
  for (int64_t size : shape) wanted.shape[wanted.ndim++] = size;
  value_error(op, arg, std::string(layout) + " = " + describe_shape(wanted), describe(view));
}

void expect_dtype(const char* op, const char* arg, const View& view, DType dtype) {
  if (view.dtype != dtype) type_error(op, arg, dtype_name(dtype), describe(view));
}

void expect_float(const char* op, const char* arg, const View& view) {
  if (view.dtype != DType::f32 && view.dtype != DType::f64) {
    type_error(op, arg, "float32 or float64", describe(view));
  }
}

void expect_real(const char* op, const char* arg, const View& view) {
  if (!is_floating(view.dtype)) type_error(op, arg, "of a floating dtype", describe(view));
}

void expect_flag(const char* op, const char* arg, const View& view) {
  if (!is_flag(view.dtype)) type_error(op, arg, "bool, uint8 or of a floating dtype", describe(view));
}

void expect_disjoint(const char* op, const char* out_arg, const View& out, const char* arg, const View& input) {
  if (absent(input) || disjoint(out, input)) return;
  value_error(op, out_arg, std::string("memory of its own"), std::string("a tensor that overlaps ") + arg);
}

void expect_no_self_overlap(const char* op, const char* arg, const View& view) {
  // Sorted by stride, every dimension must step over the whole extent of the finer ones.
  int order[kMaxDims];
  int count = 0;
  for (int i = 0; i < view.ndim; ++i) {
    if (view.shape[i] == 0) return;
    if (view.shape[i] > 1) order[count++] = i;
  }
  for (int i = 1; i < count; ++i) {
    for (int j = i; j > 0 && view.stride[order[j]] < view.stride[order[j - 1]]; --j) {
      std::swap(order[j], order[j - 1]);
    }
  }
  int64_t extent = 0;
  for (int i = 0; i < count; ++i) {
    if (view.stride[order[i]] <= extent) {
      value_error(op, arg, "a tensor whose elements do not overlap", "an expanded or overlapping view");
    }
    extent += (view.shape[order[i]] - 1) * view.stride[order[i]];
  }
}

void expect_indices(const char* op, const char* arg, const View& indices, int64_t limit, const char* what) {
  expect_ndim(op, arg, indices, 1, "[k]");
  expect_dtype(op, arg, indices, DType::i64);
#if defined(HL_BIND_CUDA) && !defined(HL_CUDA_HOST)
  return;  // reading them back would wait for the device: the kernel stops at one out of range
#endif
  const int64_t* data = reinterpret_cast<const int64_t*>(indices.data);
  for (int64_t i = 0; i < indices.shape[0]; ++i) {
    const int64_t index = data[i * indices.stride[0]];
    if (index < 0 || index >= limit) {
      throw Error(PyExc_IndexError, std::string(op) + ": " + arg + "[" + std::to_string(i) + "] must be in [0, " +
                                        std::to_string(limit) + ") (" + what + "), got " + std::to_string(index));
    }
  }
}

void mark_written(PyObject* tensor) { bump_version(tensor); }

void mark_written_all(PyObject* sequence) {
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
  for (Py_ssize_t i = 0; i < count; ++i) bump_version(PySequence_Fast_GET_ITEM(sequence, i));
}

}  // namespace hotloop
