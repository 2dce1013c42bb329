// Reading a Python argument as a View, with every check that a raw pointer needs. Nothing here owns memory: the
// views live as long as the caller's references, that is until the bound function returns.
#pragma once
#include <Python.h>

#include <initializer_list>
#include <vector>

#include "../core/view.h"
#include "errors.h"

namespace hotloop {

// A tensor argument. TypeError for what is not a torch tensor on the CPU, or of an unsupported kind or dtype;
// ValueError for one whose gradient would be lost; NeedsDispatcher for tensor subclasses. `comes_again`: whether it may
// be passed again and something is worth noting of it.
View read_tensor(const char* op, const char* arg, PyObject* object, bool comes_again = true);

// The same for an optional one: absent() is true of the result for None.
inline View read_optional(const char* op, const char* arg, PyObject* object) {
  if (object != Py_None) return read_tensor(op, arg, object);
  View view;
  view.ndim = -1;
  return view;
}
inline bool absent(const View& view) { return view.ndim < 0; }

void* tensor_memory(const char* op, PyObject* tensor);  // of one that hotloop has made itself

std::vector<View> read_tensors(const char* op, const char* arg, PyObject* sequence);

void expect_ndim(const char* op, const char* arg, const View& view, int ndim, const char* layout);

[[noreturn]] void refuse_shape(const char* op, const char* arg, const View& view,
                               std::initializer_list<int64_t> shape, const char* layout);
inline void expect_shape(const char* op, const char* arg, const View& view, std::initializer_list<int64_t> shape,
                         const char* layout) {
  bool equal = view.ndim == static_cast<int>(shape.size());
  const int64_t* actual = view.shape;
  for (int64_t size : shape) equal = equal && *actual++ == size;
  if (!equal) refuse_shape(op, arg, view, shape, layout);
}

inline void expect_same_shape(const char* op, const char* arg, const View& view, const View& other) {
  bool equal = view.ndim == other.ndim;
  for (int d = 0; equal && d < other.ndim; ++d) equal = view.shape[d] == other.shape[d];
  if (!equal) value_error(op, arg, "of shape " + describe_shape(other), describe(view));
}

void expect_dtype(const char* op, const char* arg, const View& view, DType dtype);
void expect_float(const char* op, const char* arg, const View& view);  // float32 or float64
void expect_real(const char* op, const char* arg, const View& view);  // any floating dtype
void expect_flag(const char* op, const char* arg, const View& view);  // bool, uint8 or floating

// The bytes between a view's first and its last element.
struct ByteRange {
  const char* begin;
  const char* end;
};
ByteRange byte_range(const View& view);

// ValueError where writing to `out` would change `input` under the kernel's feet, or `out` overlaps itself.
void expect_disjoint(const char* op, const char* out_arg, const View& out, const char* arg, const View& input);
void expect_no_self_overlap(const char* op, const char* arg, const View& view);

// What is asked of a tensor that an op writes, beside being disjoint from what it reads.
inline void expect_output(const char* op, const char* arg, const View& out, std::initializer_list<int64_t> shape,
                          const char* layout, DType dtype) {
  expect_shape(op, arg, out, shape, layout);
  expect_dtype(op, arg, out, dtype);
  expect_no_self_overlap(op, arg, out);
}

// IndexError unless every index lies in [0, limit).
void expect_indices(const char* op, const char* arg, const View& indices, int64_t limit, const char* what);

// Writes of [k] outputs: marks them changed for autograd. Call after all checks and before the kernel.
void mark_written(PyObject* tensor);
void mark_written_all(PyObject* sequence);

// PyEval_RestoreThread, but for a daemon thread whose interpreter has ended meanwhile: it stops here for good.
void take_gil_back(PyThreadState* state);

// Runs the kernel, without the GIL where the work is larger than a grain (64 KiB moved, about 10 us).
constexpr int64_t kGilGrainBytes = int64_t{1} << 16;
template <class Kernel>
void run_kernel(int64_t bytes, const Kernel& kernel) {
  if (bytes < kGilGrainBytes) return kernel();
  struct WithoutGil {
    PyThreadState* state = PyEval_SaveThread();
    ~WithoutGil() { take_gil_back(state); }
  } released;
  kernel();
}

}  // namespace hotloop
