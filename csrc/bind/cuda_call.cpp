#include "cuda_call.h"

#include "tensor_arg.h"
#include "torch_bridge.h"

namespace hotloop {
namespace {

#if defined(HL_CUDA_HOST)
constexpr int32_t kDevice = dlpack::kCPU;  // the host runner's memory
constexpr const char* kDeviceName = "the CPU (host runner)";
#else
constexpr int32_t kDevice = dlpack::kCUDA;
constexpr const char* kDeviceName = "a CUDA device";
#endif

struct Call {  // under the GIL, one at a time
  PyObject* first = nullptr;  // borrowed: the caller holds the arguments
  int32_t id = 0;
};
Call call;
LaunchOptions options;

}  // namespace

void begin_call() { call = Call{}; }

void expect_device(const char* op, const char* arg, PyObject* tensor, const dlpack::Device& device) {
  if (device.type != kDevice) {
    type_error(op, arg, std::string("a tensor on ") + kDeviceName + ", as others of the call are",
               "one on " + python_attribute(tensor, "device"));
  }
  if (call.first == nullptr) {
    call.first = tensor;
    call.id = device.id;
  } else if (device.id != call.id) {
    type_error(op, arg, "on the device of the other tensors, " + python_attribute(call.first, "device"),
               "one on " + python_attribute(tensor, "device"));
  }
}

LaunchOptions& launch_options() { return options; }

PyObject* new_doubles(PyObject* like, int64_t count) {
  PyObject* torch = PyImport_ImportModule("torch");
  PyObject* device = PyObject_GetAttrString(like, "device");
  PyObject* dtype = torch != nullptr ? PyObject_GetAttrString(torch, "float64") : nullptr;
  PyObject* empty = torch != nullptr ? PyObject_GetAttrString(torch, "empty") : nullptr;
  PyObject* args = Py_BuildValue("(L)", static_cast<long long>(count));
  PyObject* keywords = device != nullptr && dtype != nullptr
                           ? Py_BuildValue("{s:O,s:O}", "device", device, "dtype", dtype)
                           : nullptr;
  PyObject* result =
      empty != nullptr && args != nullptr && keywords != nullptr ? PyObject_Call(empty, args, keywords) : nullptr;
  for (PyObject* each : {torch, device, dtype, empty, args, keywords}) Py_XDECREF(each);
  if (result == nullptr) throw PythonErrorSet{};
  return result;
}

OnDevice::OnDevice(const char* op) : op_(op) {
  int current = 0;
  check(cudaGetDevice(&current));
  if (current == call.id) return;
  check(cudaSetDevice(call.id));
  before_ = current;
}

OnDevice::~OnDevice() {
  if (before_ >= 0) cudaSetDevice(before_);
  Py_XDECREF(scratch_);
}

Launch OnDevice::launch(int64_t scratch_bytes) {
  Launch launch;
  launch.options = options;
#if !defined(HL_CUDA_HOST)
  void* stream = nullptr;
  const auto current_work_stream = exchange_api().current_work_stream;
  if (current_work_stream == nullptr || current_work_stream(dlpack::kCUDA, call.id, &stream) != 0) {
    if (PyErr_Occurred()) throw PythonErrorSet{};
    throw Error(PyExc_RuntimeError, std::string(op_) + ": torch does not tell its current stream");
  }
  launch.stream = static_cast<cudaStream_t>(stream);
#endif
  if (scratch_bytes > 0) {
    scratch_ = new_doubles(call.first, (scratch_bytes + 7) / 8);
    launch.scratch = tensor_memory(op_, scratch_);
  }
  return launch;
}

void OnDevice::check(cudaError_t error) const {
  if (error == cudaSuccess) return;
  throw Error(PyExc_RuntimeError, std::string(op_) + ": the launch failed: " + cudaGetErrorString(error));
}

}  // namespace hotloop
