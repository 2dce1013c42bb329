// The DLPack 1.x ABI as far as hotloop uses it, written from the specification (dlpack.h, versions 1.0 to 1.3).
// Tensors are read through the exchange API, a table of C functions that a tensor type publishes in the capsule
// `__dlpack_c_exchange_api__`: no framework header is included and no framework library is linked.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hotloop {
namespace dlpack {

constexpr uint32_t kMajorVersion = 1;
constexpr const char* kExchangeAttribute = "__dlpack_c_exchange_api__";
constexpr const char* kExchangeCapsule = "dlpack_exchange_api";

enum DeviceType : int32_t { kCPU = 1, kCUDA = 2, kCUDAHost = 3 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6 };

struct Version {
  uint32_t major;
  uint32_t minor;
};

struct Device {
  int32_t type;
  int32_t id;
};

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; may be null for a compact tensor in versions before 1.2
  uint64_t byte_offset;
};

struct ExchangeHeader {
  Version version;
  ExchangeHeader* previous;
};

// Only the two functions hotloop calls have their types spelt out.
struct ExchangeApi {
  ExchangeHeader header;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object_no_sync;
  void* managed_tensor_to_py_object_no_sync;
  int (*tensor_from_py_object_no_sync)(void* object, Tensor* out);  // borrowed; null where unsupported
  int (*current_work_stream)(int32_t device_type, int32_t device_id, void** out);
};

static_assert(sizeof(void*) == 8, "hotloop supports 64-bit platforms");
static_assert(sizeof(Version) == 8, "DLPackVersion");
static_assert(sizeof(Device) == 8, "DLDevice");
static_assert(sizeof(DataType) == 4, "DLDataType");
static_assert(sizeof(Tensor) == 48, "DLTensor");
static_assert(offsetof(Tensor, device) == 8, "DLTensor.device");
static_assert(offsetof(Tensor, ndim) == 16, "DLTensor.ndim");
static_assert(offsetof(Tensor, dtype) == 20, "DLTensor.dtype");
static_assert(offsetof(Tensor, shape) == 24, "DLTensor.shape");
static_assert(offsetof(Tensor, strides) == 32, "DLTensor.strides");
static_assert(offsetof(Tensor, byte_offset) == 40, "DLTensor.byte_offset");
static_assert(sizeof(ExchangeHeader) == 16, "DLPackExchangeAPIHeader");
static_assert(offsetof(ExchangeApi, tensor_from_py_object_no_sync) == 40, "DLPackExchangeAPI");
static_assert(offsetof(ExchangeApi, current_work_stream) == 48, "DLPackExchangeAPI");

}  // namespace dlpack
}  // namespace hotloop
