// Shared by the plan classes: finding leaves in a TensorDict, and noticing that one changed.
#pragma once
#include <Python.h>

#include <string>
#include <vector>

#include "tensor_arg.h"

namespace hotloop {

// Tensors read for one call; the references keep them alive while a kernel runs without the GIL.
class HeldTensors {
 public:
  HeldTensors() = default;
  HeldTensors(const HeldTensors&) = delete;
  HeldTensors& operator=(const HeldTensors&) = delete;
  ~HeldTensors() { clear(); }

  void clear();
  void add(const char* op, const char* arg, PyObject* owned);  // takes the reference over, also when it throws
  void mark_written() const;

  std::vector<View> views;
  std::vector<PyObject*> objects;
};

// Where leaves lie in a TensorDict or a dict: tuples of keys, one for each leaf.
class LeafPaths {
 public:
  explicit LeafPaths(const char* op, PyObject* paths);  // a sequence of tuples of str
  LeafPaths(const LeafPaths&) = delete;
  LeafPaths& operator=(const LeafPaths&) = delete;
  ~LeafPaths();

  size_t size() const { return paths_.size(); }
  const std::string& name(size_t leaf) const { return names_[leaf]; }  // for messages
  // Appends all leaves of `root` to `out`. A list or tuple has them in the order of the paths, everything else is
  // looked up key by key; KeyError for one that is missing.
  void read(const char* op, PyObject* root, HeldTensors* out) const;
  PyObject* find(PyObject* root, size_t leaf) const;  // a new reference; null with a Python exception

 private:
  std::vector<PyObject*> paths_;
  std::vector<std::string> names_;
};

bool same_layout(const View& a, const View& b);  // dtype, sizes and strides
inline bool same_view(const View& a, const View& b) { return a.data == b.data && same_layout(a, b); }

}  // namespace hotloop
