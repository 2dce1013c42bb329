// The OpenMP pool after fork(): its threads exist in the parent only.
#pragma once

namespace hotloop {

// False in the thread that a forked child started with. libgomp still counts that thread's pool as running and would
// wait for threads that are not there, for ever; other threads of the child start pools of their own.
bool has_thread_pool();

// Has fork() tell, from now on. Called once, when the module is loaded.
void watch_forks();

}  // namespace hotloop
