// Calls of one native op after another without the interpreter between them: after a network's pass, when all other
// code has left the processor's caches, each line of Python costs as much as a small kernel.
#include <memory>
#include <vector>

#include "bind_ops.h"
#include "errors.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "join_calls";

class Reference {
 public:
  explicit Reference(PyObject* borrowed = nullptr) : object_(borrowed) { Py_XINCREF(object_); }
  Reference(Reference&& other) noexcept : object_(other.object_) { other.object_ = nullptr; }
  Reference(const Reference&) = delete;
  Reference& operator=(const Reference&) = delete;
  Reference& operator=(Reference&&) = delete;
  ~Reference() { Py_XDECREF(object_); }
  PyObject* get() const { return object_; }

 private:
  PyObject* object_;
};

struct Argument {
  Reference fixed;  // null where the call of all gives it
  Py_ssize_t slot = -1;
};

struct Call {
  Reference function;
  std::vector<Argument> arguments;
};

struct JoinedCalls {
  std::vector<Call> calls;
  Py_ssize_t slots = 0;
  size_t most_arguments = 0;
};

const char* const kCapsule = "hotloop.JoinedCalls";

void destroy(PyObject* capsule) { delete static_cast<JoinedCalls*>(PyCapsule_GetPointer(capsule, kCapsule)); }

// None, or the number of the first call that answered NotImplemented; those before it have been made.
PyObject* run(PyObject* capsule, PyObject* const* given, Py_ssize_t count) {
  const auto* joined = static_cast<const JoinedCalls*>(PyCapsule_GetPointer(capsule, kCapsule));
  if (joined == nullptr) return nullptr;
  if (count != joined->slots) {
    PyErr_Format(PyExc_TypeError, "expected %zd positional arguments, got %zd", joined->slots, count);
    return nullptr;
  }
  std::vector<PyObject*> arguments(joined->most_arguments);
  for (size_t c = 0; c < joined->calls.size(); ++c) {
    const Call& call = joined->calls[c];
    for (size_t a = 0; a < call.arguments.size(); ++a) {
      const Argument& argument = call.arguments[a];
      arguments[a] = argument.slot < 0 ? argument.fixed.get() : given[argument.slot];
    }
    PyObject* result = PyObject_Vectorcall(call.function.get(), arguments.data(), call.arguments.size(), nullptr);
    if (result == nullptr) return nullptr;
    const bool refused = result == Py_NotImplemented;
    Py_DECREF(result);
    if (refused) return PyLong_FromSize_t(c);
  }
  Py_RETURN_NONE;
}

PyMethodDef run_definition{"joined_calls", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&run)),
                           METH_FASTCALL, nullptr};

PyObject* expect_tuple(const char* arg, PyObject* object) {
  if (!PyTuple_Check(object)) type_error(kOp, arg, "a tuple", Py_TYPE(object)->tp_name);
  return object;
}

// Which of the slots it is, or -1.
Py_ssize_t slot_of(PyObject* slots, PyObject* object) {
  for (Py_ssize_t slot = 0; slot < PyTuple_GET_SIZE(slots); ++slot) {
    if (PyTuple_GET_ITEM(slots, slot) == object) return slot;
  }
  return -1;
}

std::unique_ptr<JoinedCalls> read_calls(PyObject* calls, PyObject* slots) {
  auto joined = std::make_unique<JoinedCalls>();
  joined->slots = PyTuple_GET_SIZE(expect_tuple("slots", slots));
  expect_tuple("calls", calls);
  for (Py_ssize_t c = 0; c < PyTuple_GET_SIZE(calls); ++c) {
    PyObject* const pair = expect_tuple("each call", PyTuple_GET_ITEM(calls, c));
    if (PyTuple_GET_SIZE(pair) < 1 || PyCallable_Check(PyTuple_GET_ITEM(pair, 0)) == 0) {
      type_error(kOp, "each call", "a function and its arguments", python_str(pair));
    }
    std::vector<Argument> arguments;
    for (Py_ssize_t a = 1; a < PyTuple_GET_SIZE(pair); ++a) {
      PyObject* const object = PyTuple_GET_ITEM(pair, a);
      const Py_ssize_t slot = slot_of(slots, object);
      arguments.push_back(Argument{Reference(slot < 0 ? object : nullptr), slot});
    }
    if (arguments.size() > joined->most_arguments) joined->most_arguments = arguments.size();
    joined->calls.push_back(Call{Reference(PyTuple_GET_ITEM(pair, 0)), std::move(arguments)});
  }
  return joined;
}

// args: calls, slots. A function of as many arguments as there are slots.
PyObject* join_calls(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 2) {
    PyErr_Format(PyExc_TypeError, "expected 2 positional arguments, got %zd", count);
    return nullptr;
  }
  try {
    std::unique_ptr<JoinedCalls> joined = read_calls(args[0], args[1]);
    JoinedCalls* const owned = joined.release();
    PyObject* capsule = PyCapsule_New(owned, kCapsule, &destroy);  // which is its owner now
    if (capsule == nullptr) {
      delete owned;
      return nullptr;
    }
    PyObject* function = PyCFunction_New(&run_definition, capsule);
    Py_DECREF(capsule);
    return function;
  } catch (...) {
    set_caught_error();
  }
  return nullptr;
}

PyMethodDef join_definition{kOp, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&join_calls)),
                            METH_FASTCALL, nullptr};

}  // namespace

void bind_joined_calls(PyObject* module) {
  PyObject* function = PyCFunction_New(&join_definition, nullptr);
  if (function == nullptr || PyModule_AddObject(module, kOp, function) != 0) {
    Py_XDECREF(function);
    throw PythonErrorSet{};
  }
}

}  // namespace hotloop
