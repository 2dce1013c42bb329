// Asks the system to back a tensor's memory with huge pages. A step of the rollout writes one place in each of
// thousands of rows, all on different small pages, and pays for looking up every one of them.
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "bind_ops.h"
#include "fastcall.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "advise_huge_pages";

// args: tensor
void advise_checked(PyObject* const* args) {
  const View view = read_tensor(kOp, "tensor", args[0]);
  if (view_numel(view) == 0) return;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const ByteRange range = byte_range(view);
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(range.begin) + page - 1) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(range.end) / page * page;
  // Only advice: a system that cannot follow it says so, and nothing is lost.
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace

void bind_huge_pages(PyObject* module) { add_op<1, advise_checked>(module, kOp); }

}  // namespace hotloop
