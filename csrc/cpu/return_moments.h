#pragma once
#include "../core/return_moments_params.h"
#include "isa.h"

HL_DECLARE_KERNEL_AVX2(return_moments, ReturnMomentsParams)
