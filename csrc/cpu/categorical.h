#pragma once
#include "../core/categorical_params.h"
#include "isa.h"

HL_DECLARE_KERNEL(categorical, CategoricalParams)
HL_DECLARE_KERNEL_AVX2(categorical_backward, CategoricalBackwardParams)
