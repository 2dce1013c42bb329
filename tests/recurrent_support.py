"""Recurrent policies step by step, and one with a state of its own kind."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

OBS = 3


def slow_unroll(
    core: nn.RNNBase, inputs: Tensor, state: tuple[Tensor, ...], resets: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One segment after the other, one step after the other, one layer after the other."""
    outputs, finals = [], []
    for b in range(inputs.shape[0]):
        now = [[each[layer, b : b + 1] for each in state] for layer in range(core.num_layers)]
        row = []
        for t in range(inputs.shape[1]):
            if resets[b, t]:
                now = [[torch.zeros_like(each) for each in layer] for layer in now]
            x = inputs[b, t : t + 1]
            for layer in range(core.num_layers):
                weights = core.all_weights[layer]
                if isinstance(core, nn.LSTM):
                    now[layer] = list(torch.lstm_cell(x, now[layer], *weights))
                else:
                    now[layer] = [torch.gru_cell(x, now[layer][0], *weights)]
                x = now[layer][0]
            row.append(x[0])
        outputs.append(torch.stack(row))
        finals.append(now)
    after = tuple(
        torch.stack([torch.cat([final[layer][i] for final in finals]) for layer in range(core.num_layers)])
        for i in range(len(state))
    )
    return torch.stack(outputs), after


class Counter(nn.Module):
    """Its state, nested and of two dtypes, counts the steps of the episode and adds up the observations.

    An episode begins with the count 5 and with sums of 0. Logits and values depend on both.

    `late`: in training, resets are applied so many steps late (-1: never).
    """

    def __init__(self, *, late: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.actor = nn.Parameter(0.05 * torch.randn(2 * OBS, 2, generator=generator))
        self.late = late
        self.seen: list[tuple[Tensor, Tensor]] = []

    def get_agent_experience_spec(self) -> dict[str, Any]:
        return {
            "env_obs": ((OBS,), torch.float32),
            "actions": ((), torch.int32),
            "resets": ((), torch.bool),
        }

    def get_state_spec(self) -> dict[str, Any]:
        return {"clock": {"steps": ((), torch.int64)}, "sums": ((OBS,), torch.float32)}

    def initial_state(self) -> dict[str, Any]:
        return {"clock": {"steps": torch.tensor(5)}, "sums": torch.zeros(OBS)}

    def reset_memory(self) -> None:
        pass

    def forward(
        self, td: TensorDictBase, action: Tensor | None = None, *, state: TensorDictBase | None = None
    ) -> TensorDictBase:
        obs = td["env_obs"]
        if state is None:
            steps, sums = td["state", "clock", "steps"] + 1, td["state", "sums"] + 0.01 * obs
            self.seen.append((td["state", "clock", "steps"].clone(), td["resets"].clone()))
            entries = {"clock": {"steps": steps}, "sums": sums}
            td["state"] = TensorDict(entries, batch_size=[len(obs)])
        else:
            steps, sums = self._segments(obs, td["resets"], state)
        features = torch.cat((sums, 0.1 * steps.unsqueeze(1) * obs), dim=1)
        log_probs = (features @ self.actor).log_softmax(-1)
        td["values"] = features.sum(-1)
        if action is None:
            td["actions"] = (steps % 2).int()
            td["act_log_prob"] = log_probs.gather(1, td["actions"].long().unsqueeze(1)).squeeze(1)
            return td
        td["act_log_prob"] = log_probs.gather(1, action.long()).squeeze(1)
        td["entropy"] = -(log_probs.exp() * log_probs).sum(-1)
        return td

    def _segments(self, obs: Tensor, resets: Tensor, state: TensorDictBase) -> tuple[Tensor, Tensor]:
        rows = state.batch_size[0]
        obs, resets = obs.unflatten(0, (rows, -1)), resets.reshape(rows, -1).bool()
        if self.late:
            resets = resets.roll(self.late, 1)
            resets[:, : max(self.late, 0)] = False
            resets &= self.late > 0
        steps, sums = state["clock", "steps"].clone(), state["sums"].clone()
        all_steps, all_sums = [], []
        for t in range(obs.shape[1]):
            if t:  # the stored state is reset already
                steps = torch.where(resets[:, t], 5, steps)
                sums = torch.where(resets[:, t].unsqueeze(1), 0.0, sums)
            steps, sums = steps + 1, sums + 0.01 * obs[:, t]
            all_steps.append(steps)
            all_sums.append(sums)
        return torch.stack(all_steps, 1).flatten(), torch.stack(all_sums, 1).flatten(0, 1)
