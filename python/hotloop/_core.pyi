"""Native CPU kernels of hotloop; use them through `hotloop.ops`.

The op functions take positional arguments only, check every one of them, write their outputs and return None,
or NotImplemented where an argument is a tensor subclass that must go through torch's dispatcher.
"""

from collections.abc import Callable, Sequence
from types import NotImplementedType
from typing import Any, TypeAlias

from torch import Tensor

_Result: TypeAlias = NotImplementedType | None

def isa() -> str: ...
def isas_supported() -> list[str]: ...
def set_isa(isa: str) -> None: ...
def has_byte_products() -> bool: ...
def build_info() -> dict[str, Any]: ...
def openmp_max_threads() -> int: ...
def keep_freed_memory() -> str: ...
def convert_choices(actions: Any, counts: Any, starts: Any, out: Any) -> bool: ...
def set_stand_in(module: Any) -> None: ...
def join_calls(
    calls: tuple[tuple[Any, ...], ...], slots: tuple[object, ...], /
) -> Callable[..., int | None]: ...
def native_face(
    python: Callable[..., Any],
    native: Callable[..., Any],
    names: tuple[str, ...],
    defaults: tuple[Any, ...],
    required: object,
    positional: int,
    name: str,
    doc: str,
    /,
) -> Callable[..., Any]: ...
def puff_advantage(
    values: Tensor,
    rewards: Tensor,
    dones: Tensor,
    importance: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    rho_clip: float,
    c_clip: float,
    next_values: Tensor | None,
    next_rewards: Tensor | None,
    next_dones: Tensor | None,
    returns: Tensor | None,
    priorities: Tensor | None,
    summary: Tensor | None,
    out: Tensor,
    /,
) -> _Result: ...
def gae(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    last_values: Tensor,
    truncation_values: Tensor | None,
    valid: Tensor | None,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    time_major: bool,
    priorities: Tensor | None,
    summary: Tensor | None,
    advantages: Tensor,
    returns: Tensor,
    /,
) -> _Result: ...
def gae_of_next_values(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    gae_lambda: float,
    time_major: bool,
    advantages: Tensor,
    returns: Tensor,
    /,
) -> _Result: ...
def reverse_scan(
    a: Tensor,
    b: Tensor,
    last: Tensor | None,
    time_major: bool,
    out: Tensor,
    /,
) -> _Result: ...
def reverse_scan_backward(
    grad: Tensor,
    a: Tensor,
    y: Tensor,
    last: Tensor | None,
    time_major: bool,
    grad_a: Tensor,
    grad_b: Tensor,
    grad_last: Tensor,
    /,
) -> _Result: ...
def delta_lambda(
    values: Tensor,
    rewards: Tensor,
    dones: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    next_values: Tensor | None,
    next_rewards: Tensor | None,
    next_dones: Tensor | None,
    valid: Tensor | None,
    out: Tensor,
    /,
) -> _Result: ...
def delta_lambda_backward(
    grad: Tensor,
    dones: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    next_dones: Tensor | None,
    valid: Tensor | None,
    grad_values: Tensor,
    grad_rewards: Tensor,
    grad_next_values: Tensor,
    grad_next_rewards: Tensor,
    /,
) -> _Result: ...
def td_lambda(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    last_values: Tensor,
    truncation_values: Tensor | None,
    valid: Tensor | None,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    time_major: bool,
    out: Tensor,
    /,
) -> _Result: ...
def td_lambda_backward(
    grad: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    valid: Tensor | None,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    time_major: bool,
    grad_rewards: Tensor,
    grad_values: Tensor,
    grad_last_values: Tensor,
    grad_truncation_values: Tensor,
    /,
) -> _Result: ...
def discounted_return(
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    last_values: Tensor,
    truncation_values: Tensor | None,
    valid: Tensor | None,
    gamma: float | Tensor,
    time_major: bool,
    out: Tensor,
    /,
) -> _Result: ...
def vtrace(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    importance: Tensor,
    last_values: Tensor,
    truncation_values: Tensor | None,
    valid: Tensor | None,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    rho_clip: float,
    c_clip: float,
    pg_rho_clip: float,
    time_major: bool,
    targets: Tensor,
    pg_advantages: Tensor,
    /,
) -> _Result: ...
def retrace(
    rewards: Tensor,
    q_values: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    importance: Tensor,
    last_values: Tensor,
    truncation_values: Tensor | None,
    valid: Tensor | None,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    c_clip: float,
    time_major: bool,
    out: Tensor,
    /,
) -> _Result: ...
def importance_ratio(
    new_log_prob: Tensor,
    old_log_prob: Tensor,
    valid: Tensor | None,
    invalid: float,
    out: Tensor,
    /,
) -> _Result: ...
def return_moments(values: Tensor, advantages: Tensor, valid: Tensor | None, out: Tensor, /) -> _Result: ...
def row_priorities(advantages: Tensor, alpha: float, out: Tensor, /) -> _Result: ...
def sample_segments(
    priorities: Tensor | None,
    num_segments: int,
    count: int,
    law: str,
    seed: int,
    epoch: int,
    minibatch: int,
    beta: float,
    indices: Tensor,
    weights: Tensor,
    /,
) -> _Result: ...
def scale_pixels(pixels: Tensor, out: Tensor, /) -> _Result: ...
def pixel_linear(pixels: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, /) -> _Result: ...
def pixel_linear_grad(pixels: Tensor, grad: Tensor, out: Tensor, /) -> _Result: ...
def tanh(x: Tensor, out: Tensor, /) -> _Result: ...
def gather(sources: Sequence[Tensor], indices: Tensor, out: Sequence[Tensor], /) -> _Result: ...
def scatter_(targets: Sequence[Tensor], indices: Tensor, sources: Sequence[Tensor], /) -> _Result: ...
def store_(
    buffers: Sequence[Tensor], sources: Sequence[Tensor], rows: Tensor, positions: Tensor, /
) -> _Result: ...
def last_actions_read(
    last: Tensor, start: int, count: int, dones: Tensor | None, out: Tensor, /
) -> _Result: ...
def last_actions_write_(last: Tensor, start: int, actions: Tensor, /) -> _Result: ...
def advise_huge_pages(tensor: Tensor, touched: bool, /) -> _Result: ...
def categorical_sample(
    logits: Tensor,
    mask: Tensor | None,
    nvec: Sequence[int] | None,
    seed: int,
    step: int,
    first_row: int,
    actions: Tensor,
    log_prob: Tensor,
    entropy: Tensor,
    log_probs: Tensor | None,
    /,
) -> _Result: ...
def categorical_evaluate(
    logits: Tensor,
    actions: Tensor,
    mask: Tensor | None,
    nvec: Sequence[int] | None,
    log_prob: Tensor,
    entropy: Tensor,
    saved: Tensor | None,
    /,
) -> _Result: ...
def categorical_evaluate_backward(
    grad_log_prob: Tensor,
    grad_entropy: Tensor,
    logits: Tensor,
    actions: Tensor,
    mask: Tensor | None,
    nvec: Sequence[int] | None,
    saved: Tensor,
    grad_logits: Tensor,
    /,
) -> _Result: ...
def gaussian_sample(
    mean: Tensor,
    log_std: Tensor,
    seed: int,
    step: int,
    squash: bool,
    first_row: int,
    actions: Tensor,
    log_prob: Tensor,
    entropy: Tensor,
    /,
) -> _Result: ...
def gaussian_evaluate(
    mean: Tensor,
    log_std: Tensor,
    actions: Tensor,
    squash: bool,
    log_prob: Tensor,
    entropy: Tensor,
    /,
) -> _Result: ...
def gaussian_evaluate_backward(
    grad_log_prob: Tensor,
    grad_entropy: Tensor,
    mean: Tensor,
    log_std: Tensor,
    actions: Tensor,
    squash: bool,
    grad_mean: Tensor,
    grad_log_std: Tensor,
    /,
) -> _Result: ...
def ppo_loss(
    new_log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    new_values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    entropy: Tensor,
    prio_weights: Tensor | None,
    valid: Tensor | None,
    clip_coef: float,
    vf_clip_coef: float | None,
    vf_coef: float,
    ent_coef: float,
    normalize_advantage: bool,
    eps: float,
    loss: Tensor,
    statistics: Tensor,
    gradients: Tensor | None,
    /,
) -> _Result: ...
def clip_grad_norm_(
    gradients: Sequence[Tensor], max_norm: float, error_if_nonfinite: bool, out: Tensor, /
) -> _Result: ...
def adam_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    /,
) -> _Result: ...

class RowCursors:
    def __init__(self, rows: Tensor, positions: Tensor, segments: int, horizon: int) -> None: ...
    @property
    def free_idx(self) -> int: ...
    @property
    def full_rows(self) -> int: ...
    def reset(self) -> None: ...
    def advance(self, start: int, stop: int) -> None: ...
    def position(self, agent: int) -> int: ...
    def set_counters(self, free_idx: int, full_rows: int) -> None: ...

class ActPlan:
    def __init__(
        self,
        buffer: Any,
        paths: Sequence[tuple[str, ...]],
        sources: Sequence[int],
        choices: Sequence[int],
        single: bool,
        cursors: RowCursors,
    ) -> None: ...
    def bind(
        self,
        last_actions: Tensor,
        baseline: Tensor | None,
        seed: int,
        first_agent: int,
        refuse_truncated: bool,
        acted: dict[int, int],
        edges: bool,
    ) -> bool: ...
    def release(self) -> tuple[int, dict[int, int]]: ...
    def begin(self, step: Any) -> int: ...
    def finish(self, output: Any, actions: Any) -> bool: ...

class StepBooks:
    def __init__(self, arrays: tuple[Any, ...], first_agent: int, next_step: bool) -> None: ...
    def take(
        self, observations: Any, rewards: Any, terminals: Any, truncations: Any
    ) -> tuple[list[dict[str, Any]], int, bool] | None: ...

class StepEndPlan:
    def __init__(self, start: int, stop: int) -> None: ...
    def finish(
        self,
        last_actions: Tensor,
        actions: Tensor,
        averages: Tensor | None,
        rewards: Tensor | None,
        baseline: Tensor | None,
        beta: float,
    ) -> bool: ...

class StorePlan:
    def __init__(
        self,
        buffer: Any,
        paths: Sequence[tuple[str, ...]],
        action_path: tuple[str, ...],
        cursors: RowCursors,
    ) -> None: ...
    def store(self, source: Any, start: int, stop: int, last_actions: Tensor | None) -> Any: ...

class ColumnStore:
    def __init__(self, names: tuple[str, ...], columns: tuple[Tensor, ...], cursors: RowCursors) -> None: ...
    def bind(self, buffers: tuple[Tensor, ...]) -> bool: ...
    def store(self, sources: tuple[Tensor, ...], start: int, stop: int) -> int: ...
    def step(self, sources: tuple[Tensor, ...], start: int, stop: int, lent: int, /) -> tuple[int, Any]: ...
    def spread(self) -> None: ...

class LentTensors:
    def __init__(self, make: Callable[[Any], Tensor], limit: int) -> None: ...
    def tensors(self, arrays: tuple[Any, ...], /) -> tuple[Tensor, ...]: ...
    def forget(self) -> None: ...
    def held(self) -> int: ...

class PuffDraw:
    def __init__(
        self,
        sums: Tensor,
        powers: Tensor,
        chances: Tensor,
        race: Tensor,
        rows: Tensor,
        picked: Tensor,
    ) -> None: ...
    def sum_up(self, advantages: Tensor) -> bool: ...
    def renew(
        self,
        values: Tensor,
        rewards: Tensor,
        dones: Tensor,
        importance: Tensor,
        gamma: float,
        gae_lambda: float,
        rho_clip: float,
        c_clip: float,
        advantages: Tensor,
        returns: Tensor,
    ) -> bool: ...
    def total(self) -> float: ...
    def weigh(self, total: float) -> None: ...
    def choose(self) -> bool: ...
    def pick(self) -> None: ...

class GatherPlan:
    def __init__(
        self, paths: Sequence[tuple[str, ...]], out: tuple[Tensor, ...], scales: Sequence[float]
    ) -> None: ...
    def gather(self, source: Any, indices: Tensor) -> bool: ...

class StagePlan:
    def __init__(
        self,
        names: Sequence[str],
        targets: tuple[Tensor, ...],
        scales: Sequence[float],
        offsets: Sequence[int],
        cleared: Sequence[bool],
        count: int,
    ) -> None: ...
    def stage(self, sources: list[Tensor], ends: tuple[Tensor, ...]) -> bool: ...
