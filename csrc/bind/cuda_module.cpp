// hotloop._cuda: the ops of hotloop._core for tensors on a CUDA device. It loads without a driver; what keeps it from
// running is told by device_obstacle.
#include <Python.h>

#include <cstring>
#include <string>

#include "../cuda/launch.h"
#include "bind_ops.h"
#include "cuda_call.h"
#include "errors.h"
#include "torch_bridge.h"

namespace hotloop {
namespace {

PyObject* text(const std::string& s) {
  return PyUnicode_FromStringAndSize(s.data(), static_cast<Py_ssize_t>(s.size()));
}

PyObject* device_obstacle(PyObject*, PyObject*) {
#if !defined(HL_CUDA_HOST)
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();  // forgets it
    int driver = 0;
    cudaDriverGetVersion(&driver);
    if (driver == 0) return text("there is no NVIDIA driver here, or none that answers");
    return text(std::string("the CUDA runtime says: ") + cudaGetErrorString(error));
  }
  if (count == 0) return text("the CUDA runtime finds no device");
#endif
  Py_RETURN_NONE;
}

PyObject* build_info(PyObject*, PyObject*) {
#if defined(HL_CUDA_HOST)
  return Py_BuildValue("{s:s,s:s,s:s}", "version", HL_VERSION, "cuda", "host runner", "archs", "");
#else
  const std::string cuda =
      std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  return Py_BuildValue("{s:s,s:s,s:s}", "version", HL_VERSION, "cuda", cuda.c_str(), "archs", HL_CUDA_ARCHS);
#endif
}

PyObject* set_exact(PyObject*, PyObject* on) {
  const int truth = PyObject_IsTrue(on);
  if (truth < 0) return nullptr;
  const bool before = launch_options().exact;
  launch_options().exact = truth != 0;
  return PyBool_FromLong(before);
}

PyObject* force_scan_path(PyObject*, PyObject* name) {
  if (name == Py_None) {
    launch_options().forced = -1;
    Py_RETURN_NONE;
  }
  const char* wanted = PyUnicode_AsUTF8(name);
  if (wanted == nullptr) return nullptr;
  for (int i = 0; i < kScanPaths; ++i) {
    if (std::strcmp(wanted, scan_path_name(static_cast<ScanPath>(i))) != 0) continue;
    launch_options().forced = i;
    Py_RETURN_NONE;
  }
  PyErr_Format(PyExc_ValueError, "force_scan_path: name must be that of a path or None, got %s", wanted);
  return nullptr;
}

PyObject* scan_path_of(PyObject*, PyObject* args) {
  long long rows, horizon;
  int touch, exact;
  if (!PyArg_ParseTuple(args, "LLpp", &rows, &horizon, &touch, &exact)) return nullptr;
  return text(scan_path_name(choose_scan_path(rows, horizon, touch != 0, exact != 0)));
}

#if defined(HL_CUDA_HOST)
PyObject* set_seed(PyObject*, PyObject* seed) {
  const unsigned long long value = PyLong_AsUnsignedLongLongMask(seed);
  if (PyErr_Occurred()) return nullptr;
  simt::set_seed(value);
  Py_RETURN_NONE;
}

PyObject* counts(PyObject*, PyObject*) {
  const simt::Counts c = simt::counts();
  return Py_BuildValue("{s:K,s:K,s:K}", "launches", static_cast<unsigned long long>(c.launches), "blocks",
                       static_cast<unsigned long long>(c.blocks), "threads",
                       static_cast<unsigned long long>(c.threads));
}
#endif

PyMethodDef methods[] = {
    {"device_obstacle", &device_obstacle, METH_NOARGS, "What keeps kernels from running here, or None."},
    {"build_info", &build_info, METH_NOARGS, "Versions, and the architectures that were compiled."},
    {"set_exact", &set_exact, METH_O,
     "Whether estimators take only paths that add in the CPU's order. Returns the setting before."},
    {"force_scan_path", &force_scan_path, METH_O, "For tests: one path for every shape, or None."},
    {"scan_path", &scan_path_of, METH_VARARGS, "scan_path(rows, horizon, rows_touch, exact): the path's name."},
#if defined(HL_CUDA_HOST)
    {"set_seed", &set_seed, METH_O, "The order of blocks, warps and threads from here on."},
    {"counts", &counts, METH_NOARGS, "Launches, blocks and threads that have run."},
#endif
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition{PyModuleDef_HEAD_INIT,
                       "hotloop._cuda",
                       "Native CUDA kernels of hotloop; use them through hotloop.ops.",
                       -1,
                       methods,
                       nullptr,
                       nullptr,
                       nullptr,
                       nullptr};

void bind_all(PyObject* m) {
  init_torch_bridge();
  bind_puff_advantage(m);
  bind_gae(m);
  bind_reverse_scan(m);
  bind_delta_lambda(m);
  bind_td_lambda(m);
  bind_discounted_return(m);
  bind_vtrace(m);
  bind_retrace(m);
  bind_row_priorities(m);
  bind_importance_ratio(m);
  bind_gather(m);
  bind_scatter(m);
  bind_store(m);
  bind_last_actions(m);
  bind_sample_segments(m);
  bind_categorical(m);
  bind_gaussian(m);
  bind_ppo_loss(m);
  bind_clip_grad_norm(m);
  bind_adam(m);
}

}  // namespace
}  // namespace hotloop

PyMODINIT_FUNC PyInit__cuda() {
  PyObject* module = PyModule_Create(&hotloop::definition);
  if (module == nullptr) return nullptr;
  try {
    hotloop::bind_all(module);
    return module;
  } catch (const hotloop::Error& error) {
    PyErr_SetString(PyExc_ImportError, error.what());
  } catch (const hotloop::PythonErrorSet&) {  // NOLINT(bugprone-empty-catch): the error is set
  }
  Py_DECREF(module);
  return nullptr;
}
