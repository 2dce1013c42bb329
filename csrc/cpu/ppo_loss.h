#pragma once
#include "../core/ppo_params.h"
#include "isa.h"

HL_DECLARE_KERNEL_AVX2(ppo_loss, PpoLossParams)
