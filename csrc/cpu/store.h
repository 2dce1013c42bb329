#pragma once
#include "../core/movement_params.h"

namespace hotloop {

void store(const StoreParams& params);

}  // namespace hotloop
