// One call of an op of hotloop._cuda: all of its tensors lie on one device, and it is launched there, on the stream that
// is current for the tensors' framework.
#pragma once
#include <Python.h>

#include <string>

#include "../cuda/launch.h"
#include "dlpack_abi.h"
#include "errors.h"

namespace hotloop {

// Forgets the device of the call before.
void begin_call();
// TypeError unless the tensor lies on a CUDA device, the same as those before it in this call.
void expect_device(const char* op, const char* arg, PyObject* tensor, const dlpack::Device& device);

// `count` numbers of float64 on the device of `like`, from its framework's allocator. A new reference.
PyObject* new_doubles(PyObject* like, int64_t count);

// How ops are launched from here on: see LaunchOptions.
LaunchOptions& launch_options();

// Makes the tensors' device current for the time of a launch.
class OnDevice {
 public:
  explicit OnDevice(const char* op);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  Launch launch(int64_t scratch_bytes);
  void check(cudaError_t error) const;

 private:
  const char* op_;
  int before_ = -1;
  PyObject* scratch_ = nullptr;  // freed when the launch is queued: the allocator keeps to the order of the stream
};

template <class Run>
void run_on_device(const char* op, int64_t scratch_bytes, const Run& run) {
  OnDevice device(op);
  device.check(run(device.launch(scratch_bytes)));
}

}  // namespace hotloop
