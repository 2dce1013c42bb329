#include "simt_fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 * 1024;  // red zones around every local, and room for a report
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif
constexpr size_t kGuardBytes = 4096;

}  // namespace

#if defined(__x86_64__)
// Saves what a callee must keep and swaps stacks: swapcontext would make a system call each time.
extern "C" void simt_swap_stacks(void** save, void* load);
asm(R"(
.text
.hidden simt_swap_stacks
.globl simt_swap_stacks
.type simt_swap_stacks, @function
simt_swap_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_swap_stacks, .-simt_swap_stacks
)");
#endif

Fiber::~Fiber() {
  if (stack == nullptr) return;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack, size);  // the fiber may stand in the middle of a kernel
#endif
  munmap(stack - kGuardBytes, size + kGuardBytes);
}

void make_fiber(Fiber& fiber, void (*main)()) {
  void* memory =
      mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuardBytes, PROT_NONE);
  fiber.stack = static_cast<char*>(memory) + kGuardBytes;
  fiber.size = kStackBytes;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(fiber.stack + fiber.size);
  *--top = nullptr;  // keeps the stack aligned as after a call, and ends the chain of frames
  *--top = reinterpret_cast<void*>(main);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.stack_pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = fiber.size;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, main, 0);
#endif
}

void entered_fiber(Fiber& scheduler) {
#if defined(__SANITIZE_ADDRESS__)
  // Tells where the stack of the scheduler's thread lies, to which the fibers go back.
  __sanitizer_finish_switch_fiber(nullptr, &scheduler.bottom, &scheduler.size);
#else
  (void)scheduler;
#endif
}

void switch_fiber(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.shadow_stack, to.stack != nullptr ? to.stack : to.bottom, to.size);
#endif
#if defined(__x86_64__)
  simt_swap_stacks(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  // A fiber may be gone on with by another thread than the one that it gave way to.
  const bool is_fiber = from.stack != nullptr;
  __sanitizer_finish_switch_fiber(from.shadow_stack, is_fiber ? &to.bottom : nullptr,
                                  is_fiber ? &to.size : nullptr);
#endif
}

}  // namespace simt
