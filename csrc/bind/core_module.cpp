// hotloop._core: the native CPU module.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "../cpu/forked_child.h"
#include "../cpu/freed_memory.h"
#include "../cpu/isa.h"
#include "../cpu/parallel.h"
#include "bind_ops.h"
#include "bind_plans.h"
#include "bind_row_cursors.h"
#include "device_module.h"
#include "errors.h"
#include "native_face.h"
#include "tensor_arg.h"
#include "torch_bridge.h"

namespace py = pybind11;

namespace {

using hotloop::Isa;

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (Isa isa : hotloop::isas_supported()) names.emplace_back(hotloop::isa_name(isa));
  return names;
}

void set_isa(const std::string& name) {
  for (Isa isa : hotloop::isas_supported()) {
    if (name == hotloop::isa_name(isa)) {
      hotloop::set_active_isa(isa);
      return;
    }
  }
  std::string known;
  for (const std::string& each : isa_names()) known += (known.empty() ? "" : ", ") + each;
  throw py::value_error("set_isa: isa must be one of " + known + " on this processor, got " + name);
}

py::dict build_info() {
  py::dict info;
  info["version"] = HL_VERSION;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  info["compiler"] = "gcc " __VERSION__;
#elif defined(_MSC_VER)
  info["compiler"] = "msvc " + std::to_string(_MSC_VER);
#endif
#if defined(_OPENMP)
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
  info["gil_grain_bytes"] = hotloop::kGilGrainBytes;
  info["serial_grain_bytes"] = hotloop::kSerialGrainBytes;
  return info;
}

int openmp_max_threads() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

void check_isa_override() {
  const char* wanted = std::getenv("HOTLOOP_ISA");
  if (wanted != nullptr && std::string(wanted) != hotloop::isa_name(hotloop::active_isa())) {
    std::string known;
    for (const std::string& each : isa_names()) known += (known.empty() ? "" : ", ") + each;
    throw py::import_error("HOTLOOP_ISA must be one of " + known + " on this processor, got " + wanted);
  }
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Native CPU kernels of hotloop; use them through hotloop.ops.";
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const hotloop::Error& error) {
      PyErr_SetString(error.type, error.what());
    } catch (const hotloop::PythonErrorSet&) {
    } catch (const hotloop::NeedsDispatcher&) {
      PyErr_SetString(PyExc_TypeError, "expected a plain torch.Tensor, got a subclass");
    }
  });
  m.def("isa", [] { return std::string(hotloop::isa_name(hotloop::active_isa())); });
  m.def("isas_supported", &isa_names);
  m.def("set_isa", &set_isa, py::arg("isa"));
  m.def("has_byte_products", &hotloop::has_byte_products);
  m.def("build_info", &build_info);
  m.def("openmp_max_threads", &openmp_max_threads);
  m.def("keep_freed_memory", &hotloop::keep_freed_memory);
  hotloop::watch_forks();
  hotloop::bind_row_cursors(m);
  hotloop::bind_act_plan(m);
  hotloop::bind_store_plan(m);
  hotloop::bind_gather_plan(m);
  hotloop::bind_stage_plan(m);
  hotloop::bind_step_books(m);
  hotloop::bind_step_end(m);
  hotloop::bind_column_store(m);
  hotloop::bind_lent_tensors(m);
  hotloop::bind_puff_draw(m);
  try {
    hotloop::init_torch_bridge();
    check_isa_override();
    hotloop::bind_native_face(m.ptr());
    hotloop::bind_device_module(m.ptr());
    hotloop::bind_puff_advantage(m.ptr());
    hotloop::bind_gae(m.ptr());
    hotloop::bind_reverse_scan(m.ptr());
    hotloop::bind_delta_lambda(m.ptr());
    hotloop::bind_td_lambda(m.ptr());
    hotloop::bind_discounted_return(m.ptr());
    hotloop::bind_vtrace(m.ptr());
    hotloop::bind_retrace(m.ptr());
    hotloop::bind_row_priorities(m.ptr());
    hotloop::bind_sample_segments(m.ptr());
    hotloop::bind_gather(m.ptr());
    hotloop::bind_scatter(m.ptr());
    hotloop::bind_store(m.ptr());
    hotloop::bind_last_actions(m.ptr());
    hotloop::bind_huge_pages(m.ptr());
    hotloop::bind_categorical(m.ptr());
    hotloop::bind_gaussian(m.ptr());
    hotloop::bind_ppo_loss(m.ptr());
    hotloop::bind_importance_ratio(m.ptr());
    hotloop::bind_return_moments(m.ptr());
    hotloop::bind_clip_grad_norm(m.ptr());
    hotloop::bind_adam(m.ptr());
    hotloop::bind_joined_calls(m.ptr());
    hotloop::bind_tanh(m.ptr());
    hotloop::bind_scale_pixels(m.ptr());
    hotloop::bind_pixel_linear(m.ptr());
  } catch (const hotloop::Error& error) {  // the translator above serves calls, not the module's own start
    throw py::import_error(error.what());
  } catch (const hotloop::PythonErrorSet&) {
    throw py::error_already_set();
  }
}
