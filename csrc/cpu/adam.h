#pragma once
#include "../core/adam_params.h"
#include "isa.h"

HL_DECLARE_KERNEL_AVX2(adam, AdamParams)
