// Kernels are compiled once per instruction set (see setup.py), each copy in a namespace of its own. Whatever
// such a file includes and the linker could merge must live in that namespace or be static: a merged inline
// function compiled for AVX-512 would crash an older machine. tools/check_isa_symbols.py proves that none is.
#pragma once

#ifndef HL_ISA_NAMESPACE
#define HL_ISA_NAMESPACE baseline
#endif

// Before a loop whose iterations are independent: what is written overlaps nothing that is read (the boundary refuses
// that). Without it a loop over many arrays needs more overlap tests at run time than compilers care to make.
#if defined(__clang__)
#define HL_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define HL_INDEPENDENT _Pragma("GCC ivdep")
#elif defined(_MSC_VER)
#define HL_INDEPENDENT __pragma(loop(ivdep))
#else
#define HL_INDEPENDENT
#endif

// Slow paths that many call sites share: compiled once instead of into each of them.
#if defined(_MSC_VER)
#define HL_NOINLINE __declspec(noinline)
#else
#define HL_NOINLINE __attribute__((noinline))
#endif

// Asks for the cache line at `address`, to be read or written soon.
#if defined(__GNUC__) || defined(__clang__)
#define HL_PREFETCH_READ(address) __builtin_prefetch(address, 0)
#define HL_PREFETCH_WRITE(address) __builtin_prefetch(address, 1)
#else
#define HL_PREFETCH_READ(address) ((void)(address))
#define HL_PREFETCH_WRITE(address) ((void)(address))
#endif
