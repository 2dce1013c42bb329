#pragma once
#include "../core/movement_params.h"

namespace hotloop {

void gather(const GatherParams& params);

}  // namespace hotloop
