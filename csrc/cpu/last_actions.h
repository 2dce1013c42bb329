#pragma once
#include "../core/movement_params.h"

namespace hotloop {

void last_actions_read(const LastActionsReadParams& params);
void last_actions_write(const LastActionsWriteParams& params);

}  // namespace hotloop
