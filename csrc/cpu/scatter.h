#pragma once
#include "../core/movement_params.h"

namespace hotloop {

void scatter(const ScatterParams& params);

}  // namespace hotloop
