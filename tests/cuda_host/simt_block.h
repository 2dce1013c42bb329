// Threads of one block as fibers, and what they wait for.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace simt {

struct Index {
  unsigned x, y, z;
};

// A kernel did what would be wrong on a GPU.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};
[[noreturn]] void fault(const std::string& what);  // adds kernel, block and thread

const Index& this_thread();
const Index& this_block();
const Index& block_size();
const Index& grid_size();

void block_barrier(const char* site);

// Where the calling thread stands in time: accesses by two threads are ordered where a barrier lies between them.
struct Moment {
  uint64_t block;     // serial number of the block, over all launches
  uint32_t barriers;  // that the block has passed
  uint32_t warp_barriers;  // that the thread's warp has passed
  int thread;         // in the block
};
Moment now();
size_t dynamic_shared_bytes();
char* dynamic_shared();

// The state of shared memory is the runner's: its declarations ask for room once a block.
constexpr size_t kSharedLimit = 48 * 1024;  // of a block, without opting in to more
void take_static_shared(size_t bytes);
uint64_t random_bits();

// All launches from here on are shuffled by this seed.
void set_seed(uint64_t seed);
// Launches, blocks and threads that have run, for tests that something ran at all.
struct Counts {
  uint64_t launches, blocks, threads;
};
Counts counts();

using Entry = void (*)(const void* context);
void run_grid(const char* name, Index grid, Index block, size_t shared_bytes, Entry entry, const void* context);

}  // namespace simt
