// Moving rows of many leaves: the common kernel of store, stage and gather.
#pragma once
#include <vector>

#include "copy.h"

namespace hotloop {

// One leaf: `count` rows from `from` to `to`, row i lying at i steps or where an index array says.
struct RowMove {
  RowCopy row;
  char* to = nullptr;
  const char* from = nullptr;
  int64_t to_step = 0, from_step = 0;  // bytes from row to row
  bool stream = false;                 // past the cache: wide rows of a large tensor
};

// Rows are what follows the first `skip` dimensions; the first of them counts rows. `scale` multiplies floating
// results on the way.
RowMove plan_move(const View& to, int to_skip, const View& from, int from_skip, double scale = 1.0);

// to row to_rows[i] <- from row from_rows[i]; null: row i. All indices were checked. Large moves are divided over
// threads unless `to_rows` is given, because rows that are written twice must be written in order.
void move_rows(const std::vector<RowMove>& moves, const int64_t* to_rows, const int64_t* from_rows, int64_t count,
               int64_t bytes);

// Rows of `move.to` whose flag, [count], is true become zeros.
void clear_rows(const RowMove& move, const Matrix& flags, int64_t count);

}  // namespace hotloop
