// Arrays of NumPy's through Python's buffer protocol, for the length of a call or of an object.
#pragma once
#include <Python.h>

#include <cstring>

namespace hotloop {

class LentBuffer {
 public:
  LentBuffer() = default;
  LentBuffer(const LentBuffer&) = delete;
  LentBuffer& operator=(const LentBuffer&) = delete;
  ~LentBuffer() {
    if (held_) PyBuffer_Release(&buffer_);
  }

  // False, with no exception set, for what lends no such memory. Strided where `strided`, else C-contiguous.
  bool take(PyObject* object, bool writable, bool strided = false) {
    const int kind = strided ? PyBUF_STRIDES : PyBUF_C_CONTIGUOUS;
    held_ = PyObject_GetBuffer(object, &buffer_, kind | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)) == 0;
    if (!held_) PyErr_Clear();
    return held_;
  }
  // Whether it holds `count` numbers of one of the formats (struct's characters, of the machine's byte order).
  bool is(const char* formats, Py_ssize_t itemsize, Py_ssize_t count) const {
    const char* format = buffer_.format;
    return format != nullptr && format[0] != 0 && format[1] == 0 && std::strchr(formats, format[0]) != nullptr &&
           buffer_.itemsize == itemsize && buffer_.len == itemsize * count;
  }
  char format() const { return buffer_.format[0]; }
  const Py_buffer& get() const { return buffer_; }
  template <class T>
  T* data() const {
    return static_cast<T*>(buffer_.buf);
  }

 private:
  Py_buffer buffer_{};
  bool held_ = false;
};

}  // namespace hotloop
