"""Registers each native function as `torch.ops.hotloop.*`.

Three roads lead to one native function, and all share its checks:

* eager calls with plain tensors: the Python face calls the native function directly;
* tensor subclasses and fake tensors: the native function answers `NotImplemented` and the face takes the
  registered op, so that torch's dispatcher sees it;
* `torch.compile`: the native function has a polyfill that stands for the registered op, so the face traces
  without a graph break.

Ops are defined through `torch.library.Library`, not `custom_op`: that costs 2 us a call instead of 15 to 80.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from hotloop import _core

_Function = TypeVar("_Function", bound=Callable[..., Any])

_LIBRARY = torch.library.Library("hotloop", "DEF")
_SPLIT_ROWS: dict[str, Callable[[tuple[Any, ...]], list[Any]]] = {}
_TAGS = (torch.Tag.pt2_compliant_tag,)


def _plain(value: Any) -> Any:
    """Subclasses without a dispatch of their own get this far as they are; the native code wants none."""
    if isinstance(value, Tensor) and type(value) not in (Tensor, torch.nn.Parameter):
        return value.as_subclass(Tensor)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _call_native(name: str, native: Callable[..., Any], *args: Any) -> None:
    if native(*args) is NotImplemented and native(*map(_plain, args)) is NotImplemented:
        kinds = sorted({type(a).__name__ for a in args if isinstance(a, Tensor)})
        raise TypeError(f"{name}: arguments must be plain torch.Tensor, got {', '.join(kinds)}")


def _define(schema: str, native: Callable[..., Any], fake: Callable[..., Any]) -> None:
    qualified = "hotloop::" + schema[: schema.index("(")]
    _LIBRARY.define(schema, tags=_TAGS)
    for device in ("CPU", "CUDA"):  # the native function looks where its tensors lie
        _LIBRARY.impl(qualified, native, device)
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)


def register_in_place(name: str, arguments: str, native: Callable[..., Any]) -> Any:
    """Registers `name(arguments) -> ()`, whose schema marks what is written. Returns the op."""

    def implementation(*args: Any) -> None:
        _call_native(name, native, *args)

    _define(f"{name}({arguments}) -> ()", implementation, lambda *args: None)
    op = getattr(torch.ops.hotloop, name).default
    torch.compiler.substitute_in_graph(native, skip_signature_check=True)(lambda *args: op(*args))
    return op


def register(
    name: str,
    arguments: str,
    outputs: tuple[str, ...],
    native: Callable[..., Any],
    allocate: Callable[..., Any],
) -> Any:
    """Registers `name(arguments)` and `name.out(arguments, *, outputs)`. Returns the out overload.

    Args:
        arguments: the schema of the inputs, in the order in which the native function takes them.
        outputs: schemas of the outputs that the native function takes after them, such as `"Tensor(a!) out"`.
        allocate: from the inputs to the new outputs (one tensor, a tuple or a list), as the fake does too.
    """
    register_estimator(name, arguments, outputs, native, allocate)
    return getattr(torch.ops.hotloop, name).out


def register_estimator(
    name: str,
    arguments: str,
    outputs: tuple[str, ...],
    native: Callable[..., Any],
    allocate: Callable[..., Any],
    *,
    per_row: tuple[str, ...] = (),
    on_request: tuple[str, ...] = (),
) -> Callable[..., None]:
    """`register` for ops whose native function takes more than a schema can say.

    Args:
        per_row: those `arguments` (of type float) for which the native function takes a tensor `[N]` too. A
            schema has one type for each, so the ops take the tensor as `<name>_rows`, behind all others;
            where it is given the float is not read.
        on_request: schemas of optional outputs such as `"Tensor(a!)? returns"`, which the native function
            takes between inputs and outputs. Only `name.out` has them.

    Returns:
        A function with the arguments of the native one, which calls `name.out`.
    """
    single = len(outputs) == 1
    is_list = "[]" in outputs[0]
    inputs = [schema.split("=")[0].split()[-1] for schema in arguments.split(",")]
    requests = [schema.split()[-1] for schema in on_request]
    names = [schema.split()[-1] for schema in outputs]
    returns = "Tensor[]" if is_list else "Tensor" if single else f"({', '.join(['Tensor'] * len(outputs))})"
    places = [inputs.index(each) for each in per_row]
    count = len(inputs)
    split = _SPLIT_ROWS[name] = _row_splitter(places)

    # The dispatcher leaves out trailing arguments that equal their defaults.
    defaults: list[Any] = []

    def native_inputs(args: tuple[Any, ...]) -> list[Any]:
        if not defaults:
            defaults.extend(a.default_value for a in op._schema.arguments if not a.kwarg_only)
        complete = [*args, *defaults[len(args) :]]
        for place, rows in zip(places, complete[count:], strict=True):
            if rows is not None:
                complete[place] = rows
        return complete[:count]

    def implementation(*args: Any) -> Any:
        args = tuple(native_inputs(args))
        result = allocate(*args)
        written = (result,) if single else result
        _call_native(name, native, *args, *[None] * len(requests), *written)
        return result

    def out_implementation(*args: Any, **outs: Any) -> None:
        written = [outs.get(n) for n in requests] + [outs[n] for n in names]
        _call_native(name, native, *native_inputs(args), *written)

    def out_fake(*args: Any, **outs: Any) -> None:
        return None

    def road(*args: Any) -> None:
        op(*split(args[:count]), **dict(zip(requests + names, args[count:], strict=True)))

    rows_schema = "".join(f", Tensor? {each}_rows=None" for each in per_row)
    written_schema = ", ".join([*(f"{schema}=None" for schema in on_request), *outputs])
    _define(f"{name}({arguments}{rows_schema}) -> {returns}", implementation, allocate)
    _define(f"{name}.out({arguments}{rows_schema}, *, {written_schema}) -> ()", out_implementation, out_fake)
    op = getattr(torch.ops.hotloop, name).out
    torch.compiler.substitute_in_graph(native, skip_signature_check=True)(road)
    return road


def _row_splitter(places: list[int]) -> Callable[[tuple[Any, ...]], list[Any]]:
    """From the inputs of a native function to those of its ops: tensors at `places` go behind all others."""

    def split(args: tuple[Any, ...]) -> list[Any]:
        given = list(args)
        for place in places:
            is_rows = isinstance(given[place], Tensor)
            given.append(given[place] if is_rows else None)
            if is_rows:
                given[place] = 0.0
        return given

    return split


def wants_gradient(*inputs: object) -> bool:
    """Whether autograd must hear of an op on these inputs."""
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs)


def refuse_out(name: str, out: object) -> None:
    """For differentiable ops: a result that autograd is to know of cannot be written into a given tensor."""
    if out is not None:
        raise ValueError(f"{name}: out must be None where an input requires grad, got a tensor to write into")


def register_gradient(
    name: str,
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
) -> Callable[..., Any]:
    """Makes `name` differentiable.

    Returns:
        A function of the native function's inputs that calls the op which allocates its result: for calls
        that autograd is to know of.
    """
    torch.library.register_autograd(f"hotloop::{name}", backward, setup_context=setup_context, lib=_LIBRARY)
    op = getattr(torch.ops.hotloop, name).default
    split = _SPLIT_ROWS[name]
    return lambda *args: op(*split(args))


def register_functional(
    name: str,
    arguments: str,
    outputs: int,
    native: Callable[..., Any],
    allocate: Callable[..., tuple[Tensor, ...]],
    *,
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Any:
    """Registers `name(arguments)` without an out overload, differentiable where `backward` is given.

    The faces of such ops have an `autograd.Function` of their own, a third as dear as the dispatcher's road,
    and call this op where they are traced.

    Args:
        arguments: the schema of the inputs, without defaults, in the order in which the native function takes
            them.
        outputs: how many there are.
        allocate: from the inputs to the outputs, which the native function takes after them.
        setup_context, backward: as `torch.library.register_autograd` wants them.
    """

    def implementation(*args: Any) -> Any:
        results = allocate(*args)
        _call_native(name, native, *args, *results)
        return results if outputs > 1 else results[0]

    def fake(*args: Any) -> Any:
        results = allocate(*args)
        return results if outputs > 1 else results[0]

    returns = "Tensor" if outputs == 1 else f"({', '.join(['Tensor'] * outputs)})"
    _define(f"{name}({arguments}) -> {returns}", implementation, fake)
    if backward is not None:
        torch.library.register_autograd(
            f"hotloop::{name}", backward, setup_context=setup_context, lib=_LIBRARY
        )
    return getattr(torch.ops.hotloop, name).default


def is_traced(*tensors: Any) -> bool:
    """Whether a face must take the registered op: under `torch.compile`, and for subclasses of Tensor."""
    if torch.compiler.is_compiling():
        return True
    for tensor in tensors:  # a loop: half the time of any() at the sizes of a rollout step
        kind = type(tensor)
        if kind is not Tensor and kind is not torch.nn.Parameter and isinstance(tensor, Tensor):
            return True
    return False


def new_real(like: Tensor, *shape: int) -> Tensor:
    """An output of the arithmetic's dtype: float64 for float64 inputs and float32 otherwise."""
    if like.dtype is torch.float32 or like.dtype is torch.float64:
        return like.new_empty(shape)  # a third of the time that naming the dtype takes
    return like.new_empty(shape, dtype=torch.float32)


def require_tensor(op: str, argument: str, value: Any) -> None:
    """For faces that allocate an output like `value` before the native checks run."""
    if isinstance(value, Tensor):
        return
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    hint = " (wrap it with torch.from_numpy)" if kind == "numpy.ndarray" else ""
    raise TypeError(f"{op}: {argument} must be a torch.Tensor, got {kind}{hint}")


def native_face(native: Callable[..., Any]) -> Callable[[_Function], _Function]:
    """Puts a C function in front of a Python face whose parameters are the native op's, `out` last.

    It calls the native op where `out` is given and every tensor is a plain one, and the Python face
    otherwise: the same behaviour, 0.4 us sooner. `torch.compile` traces the Python face.
    """

    def stand_in(function: _Function) -> _Function:
        signature = inspect.signature(function)
        parameters = signature.parameters.values()
        required = inspect.Parameter.empty
        bare = [p.replace(annotation=required) for p in parameters]
        text = f"{function.__name__}{signature.replace(parameters=bare, return_annotation=required)}"
        face = _core.native_face(
            function,
            native,
            tuple(p.name for p in parameters),
            tuple(p.default for p in parameters),
            required,
            sum(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters),
            function.__name__,
            f"{text}\n--\n\n{inspect.getdoc(function)}",
        )
        torch.compiler.substitute_in_graph(face, skip_signature_check=True)(function)
        return cast(_Function, face)

    return stand_in
