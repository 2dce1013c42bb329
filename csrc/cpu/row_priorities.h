#pragma once
#include "../core/row_priorities_params.h"
#include "isa.h"

HL_DECLARE_KERNEL_AVX2(row_priorities, RowPrioritiesParams)
