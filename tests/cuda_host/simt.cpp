// The scheduler: fibers, barriers, warp operations, shadows of shared memory.
#include "simt.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "simt_fiber.h"

namespace simt {
namespace {

constexpr int kWarp = 32;

enum class State { ready, at_barrier, at_warp, done };

struct Thread {
  Fiber fiber;
  Index index{};
  State state = State::done;
  const char* site = "";
  unsigned mask = 0;
  uint64_t result = 0;
};

struct Pending {  // a warp operation that some lanes of its mask have reached
  Kind kind;
  const char* site;
  unsigned mask, arrived;
  int width;
  uint64_t bits[kWarp];
  int argument[kWarp];
};

struct Warp {
  std::vector<Pending> pending;
  uint32_t barriers = 0;
};

struct Runner {
  Fiber scheduler;
  std::vector<std::unique_ptr<Thread>> threads;  // kept from launch to launch: their stacks are
  std::vector<Warp> warps;
  const char* kernel = "";
  Index grid{}, size{}, block{};
  size_t count = 0, done = 0, waiting = 0;
  Thread* current = nullptr;
  size_t current_index = 0;
  uint32_t barriers = 0;
  uint64_t serial = 0, random = 1;
  Entry entry = nullptr;
  const void* context = nullptr;
  std::vector<uint64_t> dynamic;
  size_t dynamic_bytes = 0, static_bytes = 0;
  std::string error;
  bool failed = false;
  Counts totals{};
};

Runner runner;

std::string text(const Index& i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

const char* name(Kind kind) {
  switch (kind) {
    case Kind::index: return "__shfl_sync";
    case Kind::up: return "__shfl_up_sync";
    case Kind::down: return "__shfl_down_sync";
    case Kind::exclusive_or: return "__shfl_xor_sync";
    case Kind::ballot: return "a vote";
    case Kind::barrier: return "__syncwarp";
  }
  return "?";
}

void give_way() { switch_fiber(runner.current->fiber, runner.scheduler); }

size_t below(size_t limit) { return static_cast<size_t>(random_bits() % limit); }

void fiber_main() {
  Runner& r = runner;
  entered_fiber(r.scheduler);
  for (;;) {
    Thread* self = r.current;
    try {
      r.entry(r.context);
    } catch (const Fault& error) {
      if (!r.failed) r.error = error.what();
      r.failed = true;
    }
    self->state = State::done;
    ++r.done;
    give_way();
  }
}

// Why nothing moves although not all threads have ended.
std::string stuck() {
  Runner& r = runner;
  std::string what = "divergence:";
  const char* sites[4] = {};
  size_t known = 0;
  for (size_t i = 0; i < r.count; ++i) {
    const Thread& t = *r.threads[i];
    if (t.state == State::done || known == 4 ||
        std::any_of(sites, sites + known, [&](const char* s) { return s == t.site; })) {
      continue;
    }
    sites[known++] = t.site;
    what += std::string(known > 1 ? ";" : "") + " thread " + text(t.index) + " waits at " +
            (t.state == State::at_barrier ? "__syncthreads" : "a warp operation") + " in " + t.site;
  }
  return what + "; " + std::to_string(r.done) + " of " + std::to_string(r.count) + " threads have left";
}

void run_block(const std::vector<size_t>& warp_lanes) {
  Runner& r = runner;
  ++r.serial;
  ++r.totals.blocks;
  r.totals.threads += r.count;
  r.done = r.waiting = 0;
  r.barriers = 0;
  r.static_bytes = 0;
  for (Warp& warp : r.warps) warp = Warp{};
  for (size_t i = 0; i < r.count; ++i) {
    Thread& t = *r.threads[i];
    t.state = State::ready;
    t.index = {static_cast<unsigned>(i % r.size.x), static_cast<unsigned>(i / r.size.x % r.size.y),
               static_cast<unsigned>(i / r.size.x / r.size.y)};
  }
  std::vector<size_t> order(r.warps.size());
  std::iota(order.begin(), order.end(), size_t{0});
  while (r.done < r.count) {
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[below(i)]);
    bool moved = false;
    for (size_t place = 0; place < order.size(); ++place) {
      // Some warps fall behind, but one moves in every round.
      if (moved && (random_bits() & 3) == 0) continue;
      const size_t first = order[place] * kWarp, lanes = warp_lanes[order[place]];
      const size_t offset = below(lanes);
      for (size_t lane = 0; lane < lanes; ++lane) {
        r.current_index = first + (lane + offset) % lanes;
        r.current = r.threads[r.current_index].get();
        if (r.current->state != State::ready) continue;
        moved = true;
        switch_fiber(r.scheduler, r.current->fiber);
        if (r.failed) return;
      }
    }
    if (!moved) {
      r.current = nullptr;
      fault(stuck());
    }
  }
}

void prepare_threads() {
  Runner& r = runner;
  while (r.threads.size() < r.count) {
    r.threads.push_back(std::make_unique<Thread>());
    make_fiber(r.threads.back()->fiber, &fiber_main);
  }
}

void expect(bool holds, const std::string& what) {
  if (!holds) fault("launch: " + what);
}

void check_launch(size_t shared_bytes) {
  const Runner& r = runner;
  const Index &b = r.size, &g = r.grid;
  expect(b.x > 0 && b.y > 0 && b.z > 0, "a block without threads " + text(b));
  expect(b.x <= 1024 && b.y <= 1024 && b.z <= 64 && uint64_t{b.x} * b.y * b.z <= 1024,
         "a block has at most 1024 threads, 64 of them along z, got " + text(b));
  expect(g.x > 0 && g.y > 0 && g.z > 0, "a grid without blocks " + text(g));
  expect(g.x <= 0x7fffffffu && g.y <= 65535 && g.z <= 65535,
         "a grid has at most 2147483647 by 65535 by 65535 blocks, got " + text(g));
  expect(shared_bytes <= kSharedLimit,
         "at most 49152 bytes of shared memory, got " + std::to_string(shared_bytes));
}

}  // namespace

void fault(const std::string& what) {
  const Runner& r = runner;
  std::string where = std::string("kernel ") + r.kernel;
  if (r.current != nullptr) where += ", block " + text(r.block) + ", thread " + text(r.current->index);
  throw Fault(where + ": " + what);
}

const Index& this_thread() { return runner.current->index; }
const Index& this_block() { return runner.block; }
const Index& block_size() { return runner.size; }
const Index& grid_size() { return runner.grid; }
size_t dynamic_shared_bytes() { return runner.dynamic_bytes; }
char* dynamic_shared() { return reinterpret_cast<char*>(runner.dynamic.data()); }
Counts counts() { return runner.totals; }

void set_seed(uint64_t seed) { runner.random = seed * 2654435761u + 1; }

uint64_t random_bits() {  // splitmix64
  uint64_t z = runner.random += 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

Moment now() {
  const Runner& r = runner;
  return {r.serial, r.barriers, r.warps[r.current_index / kWarp].barriers, static_cast<int>(r.current_index)};
}

void take_static_shared(size_t bytes) {
  Runner& r = runner;
  r.static_bytes += bytes;
  if (r.static_bytes + r.dynamic_bytes > kSharedLimit) {
    fault("launch: at most 49152 bytes of shared memory, got " + std::to_string(r.static_bytes + r.dynamic_bytes));
  }
}

void block_barrier(const char* site) {
  Runner& r = runner;
  if (r.done > 0) fault("divergence: __syncthreads in " + std::string(site) + " after other threads have left");
  for (size_t i = 0; r.waiting > 0 && i < r.count; ++i) {
    const Thread& other = *r.threads[i];
    if (other.state != State::at_barrier) continue;
    if (std::string(other.site) != site) {
      fault("divergence: __syncthreads in " + std::string(site) + " while thread " + text(other.index) +
            " waits at that in " + other.site);
    }
    break;
  }
  if (++r.waiting < r.count) {
    r.current->state = State::at_barrier;
    r.current->site = site;
    return give_way();
  }
  r.waiting = 0;
  ++r.barriers;
  for (size_t i = 0; i < r.count; ++i) r.threads[i]->state = State::ready;
}

namespace {

// Which lane's bits `lane` gets.
int source_of(const Pending& p, int lane) {
  const int argument = p.argument[lane], first = lane & ~(p.width - 1), last = first + p.width - 1;
  switch (p.kind) {
    case Kind::index: return first + (argument & (p.width - 1));
    case Kind::up: return lane - argument >= first ? lane - argument : lane;
    case Kind::down: return lane + argument <= last ? lane + argument : lane;
    case Kind::exclusive_or: return (lane ^ argument) <= last ? lane ^ argument : lane;
    default: return lane;
  }
}

void complete(const Pending& p, size_t first) {
  Runner& r = runner;
  uint64_t votes = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if ((p.mask >> lane & 1) && p.bits[lane] != 0) votes |= uint64_t{1} << lane;
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(p.mask >> lane & 1)) continue;
    Thread& t = *r.threads[first + static_cast<size_t>(lane)];
    const int source = source_of(p, lane);
    if (!(p.mask >> source & 1)) {
      fault("divergence: " + std::string(name(p.kind)) + " in " + p.site + " reads lane " +
            std::to_string(source) + ", which is not in the mask");
    }
    t.result = p.kind == Kind::ballot ? votes : p.bits[source];
    t.state = State::ready;
  }
}

}  // namespace

uint64_t warp_operation(Kind kind, const char* site, unsigned mask, uint64_t bits, int argument, int width) {
  Runner& r = runner;
  const size_t warp_index = r.current_index / kWarp, first = warp_index * kWarp;
  const int lane = static_cast<int>(r.current_index % kWarp);
  Warp& warp = r.warps[warp_index];
  const auto refuse = [&](const std::string& why) {
    fault("divergence: " + std::string(name(kind)) + " in " + site + why);
  };
  if (!(mask >> lane & 1)) refuse(" by a lane that is not in its mask");
  if (width < 1 || width > kWarp || (width & (width - 1)) != 0) refuse(": width must be a power of two");
  for (size_t other = 0; other < kWarp; ++other) {
    if (!(mask >> other & 1)) continue;
    if (first + other >= r.count) refuse(" for lane " + std::to_string(other) + ", which is not there");
    if (r.threads[first + other]->state == State::done) {
      refuse(" for lane " + std::to_string(other) + ", which has left");
    }
  }
  auto found =
      std::find_if(warp.pending.begin(), warp.pending.end(), [&](const Pending& p) { return p.mask & mask; });
  if (found == warp.pending.end()) {
    warp.pending.push_back(Pending{kind, site, mask, 0, width, {}, {}});
    found = warp.pending.end() - 1;
  } else if (found->kind != kind || found->mask != mask || found->width != width ||
             std::string(found->site) != site) {
    refuse(" while other lanes wait at " + std::string(name(found->kind)) + " in " + found->site);
  }
  found->bits[lane] = bits;
  found->argument[lane] = argument;
  found->arrived |= 1u << lane;
  Thread& self = *r.current;
  self.site = site;
  if (found->arrived != mask) {
    self.state = State::at_warp;
    give_way();
    return self.result;
  }
  const Pending done = *found;
  warp.pending.erase(found);
  if (kind == Kind::barrier) ++warp.barriers;
  complete(done, first);
  return self.result;
}

namespace {

[[noreturn]] void hazard(const char* name, size_t index, const std::string& what) {
  fault("shared memory " + std::string(name) + "[" + std::to_string(index) + "] is " + what);
}

}  // namespace

void Shadow::read(const Moment& m, const char* name, size_t index) {
  const int warp = m.thread / kWarp;
  if (writer < 0) hazard(name, index, "read before it was written");
  const bool ordered = writer == m.thread || written_at != m.barriers ||
                       (writer / kWarp == warp && written_at_warp != m.warp_barriers);
  if (!ordered) hazard(name, index, "read without a barrier after thread " + std::to_string(writer) + " wrote it");
  if (reader == -1 || read_at != m.barriers) {
    reader = m.thread;
    reader_warp = warp;
  } else if (reader_warp != warp) {
    reader = -3;
  } else if (reader != m.thread && reader != -3) {
    reader = read_at_warp == m.warp_barriers ? -2 : m.thread;
  }
  read_at = m.barriers;
  read_at_warp = m.warp_barriers;
}

void Shadow::write(const Moment& m, const char* name, size_t index) {
  const int warp = m.thread / kWarp;
  if (writer >= 0 && writer != m.thread && written_at == m.barriers &&
      !(writer / kWarp == warp && written_at_warp != m.warp_barriers)) {
    hazard(name, index, "written without a barrier after thread " + std::to_string(writer) + " wrote it");
  }
  if (reader != -1 && reader != m.thread && read_at == m.barriers &&
      !(reader != -3 && reader_warp == warp && read_at_warp != m.warp_barriers)) {
    hazard(name, index, "written without a barrier after another thread read it");
  }
  writer = m.thread;
  written_at = m.barriers;
  written_at_warp = m.warp_barriers;
}

void run_grid(const char* name, Index grid, Index block, size_t shared_bytes, Entry entry, const void* context) {
  Runner& r = runner;
  r.kernel = name;
  r.grid = grid;
  r.size = block;
  r.current = nullptr;
  r.failed = false;
  check_launch(shared_bytes);
  ++r.totals.launches;
  r.count = size_t{block.x} * block.y * block.z;
  r.entry = entry;
  r.context = context;
  r.dynamic_bytes = shared_bytes;
  r.dynamic.resize(shared_bytes / 8 + 2);
  r.warps.assign((r.count + kWarp - 1) / kWarp, Warp{});
  prepare_threads();
  std::vector<size_t> lanes(r.warps.size(), kWarp);
  if (r.count % kWarp != 0) lanes.back() = r.count % kWarp;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  std::vector<uint32_t> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[below(i)]);
  for (const uint32_t at : order) {
    r.block = {at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y};
    try {
      run_block(lanes);
    } catch (const Fault&) {
      r.threads.clear();
      throw;
    }
    if (!r.failed) continue;
    r.threads.clear();  // the others stand in the middle of the kernel and never end
    throw Fault(r.error);
  }
}

}  // namespace simt
