#include "last_actions.h"

#include "move.h"

namespace hotloop {

void last_actions_read(const LastActionsReadParams& p) {
  const int64_t count = p.out.shape[0];
  RowMove move = plan_move(p.out, 1, p.last, 1);
  move.from += p.start * move.from_step;
  move_rows({move}, nullptr, nullptr, count, 2 * view_bytes(p.out));
  if (p.dones.ndim) clear_rows(move, as_column(p.dones), count);
}

void last_actions_write(const LastActionsWriteParams& p) {
  RowMove move = plan_move(p.last, 1, p.actions, 1);
  move.to += p.start * move.to_step;
  move_rows({move}, nullptr, nullptr, p.actions.shape[0], 2 * view_bytes(p.actions));
}

}  // namespace hotloop
