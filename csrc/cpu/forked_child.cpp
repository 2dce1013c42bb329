#include "forked_child.h"

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace hotloop {
namespace {

// The child's handler runs in the one thread that the child has, the one that called fork().
thread_local bool lost_pool = false;

}  // namespace

bool has_thread_pool() { return !lost_pool; }

#if defined(_WIN32)
void watch_forks() {}
#else
void watch_forks() {
  pthread_atfork(nullptr, nullptr, [] { lost_pool = true; });
}
#endif

}  // namespace hotloop
