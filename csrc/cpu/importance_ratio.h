#pragma once
#include "../core/importance_ratio_params.h"
#include "isa.h"

HL_DECLARE_KERNEL_AVX2(importance_ratio, ImportanceRatioParams)
