// One stack a fiber and the switch between two, known to AddressSanitizer.
#pragma once
#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace simt {

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;  // null: the stack of the process
  size_t size = 0;
  void* shadow_stack = nullptr;  // AddressSanitizer's, and where the scheduler's stack begins
  const void* bottom = nullptr;
#if !defined(__x86_64__)
  ucontext_t context;
#endif
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();
};

void make_fiber(Fiber& fiber, void (*main)());  // `main` never returns
void switch_fiber(Fiber& from, Fiber& to);
void entered_fiber(Fiber& scheduler);  // the first thing that a fiber's main does

}  // namespace simt
