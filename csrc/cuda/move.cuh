// Moving rows between tensors of any strides and dtypes, all leaves in one launch: what gather, scatter_, store_ and the
// last actions share.
#pragma once
#include "element.cuh"
#include "../core/row_copy.h"

namespace hotloop {
namespace device {

// One leaf. Rows of one contiguous block are moved in units as wide as alignment allows, up to 16 bytes; all others
// element by element.
struct LeafMove {
  char* to;
  const char* from;
  int64_t to_step[2];  // bytes for one step of each index of the target's row
  int64_t from_step;
  int64_t units;  // of a row
  int unit_bytes;  // 0: elements, by `row`
  RowCopy row;  // its strides in bytes
};

// Where row i goes and comes from: null is i itself. Indices are strided int64.
struct RowIndices {
  const int64_t* to[2];
  int64_t to_stride[2];
  int64_t to_limit[2];
  const int64_t* from;
  int64_t from_stride, from_limit;
  const int64_t* winners;  // or null: row i is moved where winners[to[0][i]] == i
};

constexpr int kLeavesALaunch = 24;  // 8 KiB of parameters

struct MoveArgs {
  int64_t count;
  RowIndices at;
  LeafMove leaves[kLeavesALaunch];
};

// An index out of range ends the kernel with an error, as torch's own do: reading it back first would wait.
HL_DEVICE int64_t checked_index(const int64_t* indices, int64_t stride, int64_t limit, int64_t i) {
  const int64_t index = indices[i * stride];
  if (index < 0 || index >= limit) __trap();
  return index;
}

template <class To>
HL_DEVICE void put(char* to, To x) {
  *reinterpret_cast<To*>(to) = x;
}

// To a floating dtype: the product with the scale is taken in Wide and rounded once.
template <class Wide, class From>
HL_DEVICE void put_real(const LeafMove& leaf, char* to, From x) {
  Wide wide = static_cast<Wide>(x);
  if (leaf.row.scale != 1.0) wide = wide * static_cast<Wide>(leaf.row.scale);
  switch (leaf.row.to) {
    case DType::f32: return put(to, static_cast<float>(wide));
    case DType::f64: return put(to, static_cast<double>(wide));
    case DType::bf16: return put(to, to_bfloat16(static_cast<float>(wide)));
    default: return put(to, to_float16(static_cast<float>(wide)));
  }
}

template <class From>
HL_DEVICE void put_number(const LeafMove& leaf, char* to, From x) {
  switch (leaf.row.to) {
    case DType::b8: return put(to, static_cast<uint8_t>(x != From(0) ? 1 : 0));
    case DType::u8: return put(to, static_cast<uint8_t>(x));
    case DType::i8: return put(to, static_cast<int8_t>(x));
    case DType::i16: return put(to, static_cast<int16_t>(x));
    case DType::i32: return put(to, static_cast<int32_t>(x));
    case DType::i64: return put(to, static_cast<int64_t>(x));
    case DType::f64: return put_real<double>(leaf, to, x);
    default: return put_real<float>(leaf, to, x);
  }
}

HL_DEVICE void convert_element(const LeafMove& leaf, char* to, const char* from) {
  switch (leaf.row.from) {
    case DType::b8:
      return put_number(leaf, to, static_cast<uint8_t>(*reinterpret_cast<const uint8_t*>(from) != 0));
    case DType::u8: return put_number(leaf, to, *reinterpret_cast<const uint8_t*>(from));
    case DType::i8: return put_number(leaf, to, *reinterpret_cast<const int8_t*>(from));
    case DType::i16: return put_number(leaf, to, *reinterpret_cast<const int16_t*>(from));
    case DType::i32: return put_number(leaf, to, *reinterpret_cast<const int32_t*>(from));
    case DType::i64: return put_number(leaf, to, *reinterpret_cast<const int64_t*>(from));
    case DType::f16: return put_number(leaf, to, to_float(*reinterpret_cast<const Float16*>(from)));
    case DType::bf16: return put_number(leaf, to, to_float(*reinterpret_cast<const BFloat16*>(from)));
    case DType::f32: return put_number(leaf, to, *reinterpret_cast<const float*>(from));
    case DType::f64: {
      const double x = *reinterpret_cast<const double*>(from);
      if (is_floating(leaf.row.to)) return put_real<double>(leaf, to, x);
      return put_number(leaf, to, x);
    }
  }
}

struct alignas(16) Unit16 {
  uint64_t low, high;
};

HL_DEVICE void copy_unit(char* to, const char* from, int bytes) {
  switch (bytes) {
    case 16: *reinterpret_cast<Unit16*>(to) = *reinterpret_cast<const Unit16*>(from); break;
    case 8: *reinterpret_cast<uint64_t*>(to) = *reinterpret_cast<const uint64_t*>(from); break;
    case 4: *reinterpret_cast<uint32_t*>(to) = *reinterpret_cast<const uint32_t*>(from); break;
    case 2: *reinterpret_cast<uint16_t*>(to) = *reinterpret_cast<const uint16_t*>(from); break;
    default: *to = *from; break;
  }
}

constexpr int kMoveThreads = 256;
constexpr int kMoveBlocks = 2048;  // of a leaf along x: enough for any device, more rows are walked in strides

// Leaf blockIdx.y; neighbouring threads move neighbouring units.
static __global__ void __launch_bounds__(kMoveThreads) move_rows_kernel(const MoveArgs args) {
  const LeafMove& leaf = args.leaves[blockIdx.y];
  const RowIndices& at = args.at;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = global_thread(); i < args.count * leaf.units; i += step) {
    const int64_t row = i / leaf.units;
    int64_t unit = i % leaf.units;
    const int64_t to_row =
        at.to[0] != nullptr ? checked_index(at.to[0], at.to_stride[0], at.to_limit[0], row) : row;
    if (at.winners != nullptr && at.winners[to_row] != row) continue;
    char* to = leaf.to + to_row * leaf.to_step[0];
    if (at.to[1] != nullptr) to += checked_index(at.to[1], at.to_stride[1], at.to_limit[1], row) * leaf.to_step[1];
    const int64_t from_row = at.from != nullptr ? checked_index(at.from, at.from_stride, at.from_limit, row) : row;
    const char* from = leaf.from + from_row * leaf.from_step;
    if (leaf.unit_bytes != 0) {
      copy_unit(to + unit * leaf.unit_bytes, from + unit * leaf.unit_bytes, leaf.unit_bytes);
      continue;
    }
    for (int dim = leaf.row.ndim - 1; dim >= 0; --dim) {
      const int64_t here = unit % leaf.row.shape[dim];
      unit /= leaf.row.shape[dim];
      to += here * leaf.row.to_stride[dim];
      from += here * leaf.row.from_stride[dim];
    }
    if (leaf.row.to == leaf.row.from && leaf.row.scale == 1.0) {
      copy_unit(to, from, static_cast<int>(itemsize(leaf.row.to)));
    } else {
      convert_element(leaf, to, from);
    }
  }
}

}  // namespace device
}  // namespace hotloop
