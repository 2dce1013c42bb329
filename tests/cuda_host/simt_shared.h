// Shared memory that knows of each element who wrote it when, and who read it.
//
// An access is a fault where it lies outside of the array, where nothing was written, and where another thread's write
// (or, for a write, another thread's read) is not ordered before it by a barrier: __syncthreads for any two threads,
// __syncwarp for two of one warp.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "simt_block.h"

namespace simt {

struct Shadow {
  int writer = -1, reader = -1;  // reader: -2 for several of one warp, -3 for those of several warps
  int reader_warp = -1;
  uint32_t written_at = 0, written_at_warp = 0, read_at = 0, read_at_warp = 0;

  void read(const Moment& m, const char* name, size_t index);
  void write(const Moment& m, const char* name, size_t index);
};

template <class T>
class SharedSpan;

template <class T>
struct SharedPointer {
  SharedSpan<T>* span;
  size_t index;
  T& atomic_value();
};

template <class T>
class SharedReference {
 public:
  SharedReference(SharedSpan<T>* span, size_t index) : span_(span), index_(index) {}
  operator T() const { return span_->read(index_); }
  SharedReference& operator=(const T& value) {
    span_->write(index_, value);
    return *this;
  }
  SharedReference& operator=(const SharedReference& other) { return *this = static_cast<T>(other); }
  SharedReference& operator+=(const T& value) { return *this = static_cast<T>(*this) + value; }
  SharedPointer<T> operator&() const { return {span_, index_}; }

 private:
  SharedSpan<T>* span_;
  size_t index_;
};

template <class T>
class SharedSpan {
 public:
  explicit SharedSpan(const char* name) : name_(name) {}
  SharedReference<T> operator[](int64_t index) {
    if (index < 0 || static_cast<size_t>(index) >= count_) {
      fault("shared memory " + std::string(name_) + "[" + std::to_string(index) + "] lies outside of its " +
            std::to_string(count_) + " elements");
    }
    return {this, static_cast<size_t>(index)};
  }
  T read(size_t index) {
    shadow_[index].read(now(), name_, index);
    return data_[index];
  }
  void write(size_t index, const T& value) {
    shadow_[index].write(now(), name_, index);
    data_[index] = value;
  }
  T& atomic(size_t index) {
    if (shadow_[index].writer < 0) shadow_[index].read(now(), name_, index);  // not written: a fault
    return data_[index];
  }

 protected:
  // At the first use in each block: nothing is there but what the last block left, which is made garbage.
  bool is_new_block() {
    const uint64_t block = now().block;
    if (block == block_) return false;
    block_ = block;
    return true;
  }
  void forget(T* data, size_t count) {
    data_ = data;
    count_ = count;
    shadow_.assign(count, Shadow{});
    const int garbage = static_cast<int>(random_bits() & 0xff);
    std::memset(static_cast<void*>(data), garbage, count * sizeof(T));
  }

 private:
  const char* name_;
  T* data_ = nullptr;
  size_t count_ = 0;
  uint64_t block_ = 0;
  std::vector<Shadow> shadow_;
};

template <class T>
T& SharedPointer<T>::atomic_value() {
  return span->atomic(index);
}

// `static` in a kernel, as __shared__ arrays are: one a kernel, which all fibers see.
template <class T, size_t kCount>
class SharedArray : public SharedSpan<T> {
 public:
  explicit SharedArray(const char* name) : SharedSpan<T>(name) {}
  SharedArray& enter() {
    if (this->is_new_block()) {
      take_static_shared(sizeof storage_);
      this->forget(reinterpret_cast<T*>(storage_), kCount);
    }
    return *this;
  }

 private:
  alignas(16) unsigned char storage_[kCount * sizeof(T)];
};

template <class T>
class DynamicShared : public SharedSpan<T> {
 public:
  explicit DynamicShared(const char* name) : SharedSpan<T>(name) {}
  DynamicShared& enter() {
    if (this->is_new_block()) {
      this->forget(reinterpret_cast<T*>(dynamic_shared()), dynamic_shared_bytes() / sizeof(T));
    }
    return *this;
  }
};

}  // namespace simt
