#pragma once
#include "../core/clip_grad_norm_params.h"
#include "isa.h"

HL_DECLARE_KERNEL_AVX2(square_sums, SquareSumsParams)
HL_DECLARE_KERNEL_AVX2(scale_runs, ScaleRunsParams)
