#include "freed_memory.h"

#include <cstdlib>

#if defined(__GLIBC__)
#include <dlfcn.h>
#include <malloc.h>
#endif

namespace hotloop {

#if defined(__GLIBC__)

namespace {

// Blocks above this are still mapped and unmapped one by one: they are buffers that live as long as a run.
constexpr int kMapThreshold = 1 << 30;
// glibc before 2.35 refuses more (DEFAULT_MMAP_THRESHOLD_MAX on 64-bit machines).
constexpr int kOldMapThreshold = 32 << 20;

// Which library answers malloc: a preloaded allocator keeps memory by rules of its own and ignores mallopt.
std::string allocator() {
  Dl_info info;
  void* function = dlsym(RTLD_DEFAULT, "malloc");
  if (function == nullptr || dladdr(function, &info) == 0 || info.dli_fname == nullptr) return "unknown";
  const std::string path = info.dli_fname;
  return path.substr(path.rfind('/') + 1);
}

}  // namespace

std::string keep_freed_memory() {
  const std::string library = allocator();
  if (library.rfind("libc.so", 0) != 0 && library.rfind("libc-", 0) != 0) {
    return "malloc is that of " + library + ", not glibc's";
  }
  // -1: never trim the heap. Either call also stops glibc from moving the thresholds by itself.
  if (mallopt(M_TRIM_THRESHOLD, -1) == 0) return "glibc refused M_TRIM_THRESHOLD";
  if (mallopt(M_MMAP_THRESHOLD, kMapThreshold) == 0 && mallopt(M_MMAP_THRESHOLD, kOldMapThreshold) == 0) {
    return "glibc refused M_MMAP_THRESHOLD";
  }
  return "";
}

#else

std::string keep_freed_memory() { return "the C library is not glibc"; }

#endif

}  // namespace hotloop
