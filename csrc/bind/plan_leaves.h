// Shared by the plan classes: finding leaves in a TensorDict, holding them for the length of a call, and the checks
// on their memory.
#pragma once
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "tensor_arg.h"

namespace hotloop {

// Tensors of one argument. The references keep them alive while a kernel runs without the GIL.
// First everything is found, which may run Python code, and then everything is read, which runs none: so nobody can
// move the memory of a tensor between the moment it is read and the kernel, except another thread.
class HeldTensors {
 public:
  explicit HeldTensors(const std::vector<std::string>& names) : names(names) {}
  HeldTensors(const HeldTensors&) = delete;
  HeldTensors& operator=(const HeldTensors&) = delete;

  void hold(pybind11::object tensor) { objects.push_back(std::move(tensor)); }
  void hold_all(const pybind11::tuple& tensors);
  void read(const char* op);  // fills `views`, one for each object
  void mark_written() const;
  const char* name(size_t i) const { return names[i].c_str(); }

  const std::vector<std::string>& names;  // for messages
  std::vector<pybind11::object> objects;
  std::vector<View> views;
  std::vector<ByteRange> ranges;
};

// ValueError where something that is written overlaps itself or something else that is written.
void expect_own_memory(const char* op, const HeldTensors& written);
// ... or something that is read.
void expect_apart(const char* op, const HeldTensors& written, const HeldTensors& read);

// Where leaves lie in a TensorDict or a dict: tuples of keys, one for each leaf.
class LeafPaths {
 public:
  LeafPaths(const char* op, const pybind11::handle& paths);  // a sequence of tuples of str

  size_t size() const { return paths_.size(); }
  std::vector<std::string> names(const char* arg) const;  // such as "source[memory.h]"
  // All leaves of `root`. A list or tuple has them in the order of the paths, everything else is looked up key by
  // key; KeyError for one that is missing.
  void find_all(const char* op, const char* arg, const pybind11::handle& root, HeldTensors* out) const;
  // The leaf, or null with a Python exception set.
  pybind11::object find(const pybind11::handle& root, size_t leaf) const;

 private:
  std::vector<pybind11::tuple> paths_;
};

bool same_view(const View& a, const View& b);  // address, dtype, sizes and strides

}  // namespace hotloop
