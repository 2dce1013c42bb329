// What the C library does with freed memory.
#pragma once
#include <string>

namespace hotloop {

// Tells the C library to keep freed memory instead of handing it back to the kernel. Returns an empty string, or
// the reason why nothing was changed.
std::string keep_freed_memory();

}  // namespace hotloop
