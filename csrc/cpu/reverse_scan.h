#pragma once
#include "../core/estimator_params.h"
#include "isa.h"

HL_DECLARE_KERNEL_AVX2(reverse_scan, ReverseScanParams)
HL_DECLARE_KERNEL_AVX2(reverse_scan_backward, ReverseScanBackwardParams)
