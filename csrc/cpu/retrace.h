#pragma once
#include "../core/estimator_params.h"
#include "isa.h"

HL_DECLARE_KERNEL_AVX2(retrace, RetraceParams)
