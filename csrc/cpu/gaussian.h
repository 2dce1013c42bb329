#pragma once
#include "../core/gaussian_params.h"
#include "isa.h"

HL_DECLARE_KERNEL_AVX2(gaussian, GaussianParams)
HL_DECLARE_KERNEL_AVX2(gaussian_backward, GaussianBackwardParams)
