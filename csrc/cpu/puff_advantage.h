#pragma once
#include "../core/estimator_params.h"
#include "isa.h"

HL_DECLARE_KERNEL(puff_advantage, PuffAdvantageParams)
