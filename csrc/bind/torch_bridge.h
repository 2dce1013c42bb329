// What the binding knows of torch, looked up through Python once: its tensor types, their exchange API, and the
// few properties that DLPack does not carry (negative bit, gradient, version counter).
#pragma once
#include <Python.h>

#include "dlpack_abi.h"

namespace hotloop {

enum class TensorKind { exact, subclass, not_a_tensor };

TensorKind tensor_kind(PyObject* object);  // exact: type is torch.Tensor or torch.nn.Parameter
const dlpack::ExchangeApi& exchange_api();
// `raw` is what the exchange API says of the same tensor. `remember`: that it has not is noted, which is worth its
// cost where the tensor is passed again.
bool has_negative_bit(PyObject* tensor, const dlpack::Tensor& raw, bool remember = true);
bool requires_grad(PyObject* tensor);
bool grad_mode_enabled();
void bump_version(PyObject* tensor);  // tells autograd that the tensor was written to
void bump_versions(PyObject* const* tensors, size_t count);  // the same of several, in one call

void init_torch_bridge();  // imports torch; raises ImportError where its exchange API is missing or unknown

}  // namespace hotloop
