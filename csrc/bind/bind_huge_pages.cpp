// Asks the system to back a tensor's memory with huge pages. A step of the rollout writes one place in each of
// thousands of rows, all on different small pages, and pays for looking up every one of them.
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "bind_ops.h"
#include "fastcall.h"
#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "advise_huge_pages";

#if defined(__linux__)
// Linux 6.1, whose headers may be newer than those that this is compiled with.
constexpr int kCollapse = 25;
#endif

// args: tensor, touched (whether to move what is on small pages already, which takes time)
void advise_checked(PyObject* const* args) {
  const View view = read_tensor(kOp, "tensor", args[0]);
  const int64_t touched = read_int(kOp, "touched", args[1], 0, 1);
  if (view_numel(view) == 0) return;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const ByteRange range = byte_range(view);
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(range.begin) + page - 1) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(range.end) / page * page;
  // Only advice: a system that cannot follow it says so, and nothing is lost.
  if (begin >= end || madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE) != 0) return;
  if (touched == 0) return;
  Py_BEGIN_ALLOW_THREADS;  // a copy of all of it
  (void)madvise(reinterpret_cast<void*>(begin), end - begin, kCollapse);
  Py_END_ALLOW_THREADS;
#else
  (void)touched;
#endif
}

}  // namespace

void bind_huge_pages(PyObject* module) { add_op<2, advise_checked>(module, kOp); }

}  // namespace hotloop
