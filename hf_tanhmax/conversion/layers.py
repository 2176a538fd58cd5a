"""Run the layers of a model one at a time, on hidden states that are kept outside of it.

A layer is called with hidden states, which the layer before it returned, and with arguments that do not depend on them: masks and
positions. The latter are kept from a run of the whole model; then any layer runs on any hidden states of that batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import some
from ..integration.hooks import AttentionCall, computes_tanhmax, replace_attention
from ..integration.patching import attention_modules
from .projections import find_linear
from .runner import Batch, out_of_memory_in_words, run_model
from .statistics import real_rows

HIDDEN = "hidden_states"  # what layers call them that take them by keyword
Kept: TypeAlias = Tensor | str | int | float | bool | list[Any] | tuple[Any, ...] | dict[str, Any] | None


class Arguments(NamedTuple):
    """What a layer is called with besides its hidden states, by position and by keyword."""

    positional: tuple[Kept, ...]
    keyword: dict[str, Kept]


@dataclass(frozen=True)
class Layer:
    """A layer with one attention module, whose output projection is added to the layer's input.

    Attributes:
        name: its path in the model.
        module: hidden states in, hidden states out.
        attention: it asks Transformers' attention interface.
        output: the output projection, `[..., heads * value_dim]` to `[..., hidden]`.
    """

    name: str
    module: nn.Module
    attention: nn.Module
    output: nn.Linear

    def __call__(self, hidden: Tensor, arguments: Arguments, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """The hidden states after the layer.

        Args:
            hidden: those before it, `[batch, length, hidden]`.
            arguments: as `LayerArguments` kept them for the batch.
            parameters: used instead of the model's own, by their names in the layer.

        Raises:
            torch.OutOfMemoryError: the batch does not fit into memory; the message says what to lower.
        """
        device = self.output.weight.device
        positional, keyword = (hidden, *arguments.positional), arguments.keyword
        if arguments.keyword.keys() & {HIDDEN}:
            positional, keyword = arguments.positional, {**keyword, HIDDEN: hidden}
        with out_of_memory_in_words(hidden.shape[:2]):
            return first(functional_call(self.module, dict(parameters or {}), _moved(positional, device), _moved(keyword, device)))

    def softmax(
        self, hidden: Tensor, arguments: Arguments, parameters: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The layer at polarity 0: what the output projection adds, the hidden states after the layer, and which rows are no padding."""
        added: list[Tensor] = []
        real: list[Tensor] = []

        def _noting(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
            real.append(real_rows(call))
            return call.compute()

        with (
            replace_attention([self.attention], _noting, polarity=0.0),
            _hooked(self.output.register_forward_hook(lambda _, __, output: added.append(output))),
        ):
            after = self(hidden, arguments, parameters)
        if len(added) != 1 or len(real) != 1:
            raise NotImplementedError(
                f"{type(self.module).__name__} calls {type(self.attention).__name__} {len(real)} times, and its output projection "
                f"{len(added)} times, so it cannot be run one layer at a time"
            )
        if real[0].shape != hidden.shape[:2]:
            raise NotImplementedError(
                f"{type(self.attention).__name__} attends to pieces of what {type(self.module).__name__} is called with, so it cannot be "
                "run one layer at a time"
            )
        return added[0], after, real[0]

    def heads(self, hidden: Tensor, arguments: Arguments, *, whole: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """As the model is: outputs of all heads `[batch, length, heads * value_dim]`, what the output projection makes of them, and what it
        is added to.

        Args:
            hidden: before the layer.
            arguments: of the layer.
            whole: whether the projection's output is added at the end of the layer (`adds_to_its_output`), and not to its input.
        """
        found: list[tuple[Tensor, Tensor]] = []

        def _note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found.append((inputs[0], output))
            if not whole:
                raise _EnoughError

        with _hooked(self.output.register_forward_hook(_note)), suppress(_EnoughError):
            after = self(hidden, arguments)
        return (*found[0], after - found[0][1] if whole else hidden)


class _EnoughError(Exception):
    """Ends a run of the model or a layer from inside, once a hook has seen what it is there for."""


def find_layers(model: nn.Module, purpose: str) -> list[Layer]:
    """The layers of a model, in order; of a model of several parts, those of the one that computes TanhMax.

    Args:
        model: its layers are the items of one list, each with one attention module.
        purpose: what is to be done with them, as the participle of a message.

    Raises:
        ValueError: an output projection that is quantised or not in memory.
        NotImplementedError: layers that are not like that, or an output projection that is no plain linear layer.
    """
    attending = set(attention_modules(model))
    paths = {path: module for path, module in model.named_modules() if module in attending}
    owner = type(model).__name__
    if not paths:
        raise ValueError(f"{owner} has no attention module that asks Transformers' attention interface, so it cannot be {purpose}")
    chosen = [path for path, module in paths.items() if computes_tanhmax(module.config)] or list(paths)
    for depth in range(max(len(_numbered(path)) for path in chosen)):  # the innermost lists first
        lists = {_list_of(path, depth) for path in chosen}
        items = _items(paths, lists)
        if len(lists) == 1 and None not in lists and all(len(each) == 1 for each in items.values()):
            return [
                Layer(name, model.get_submodule(name), paths[path], find_linear(model, paths[path], "output", purpose=purpose))
                for name, (path,) in items.items()
            ]
    raise NotImplementedError(f"the layers of {owner} cannot be run one at a time, as {_reason(paths, chosen)}, so it cannot be {purpose}")


def _numbered(path: str) -> list[str]:
    """The beginnings of a path that end with a number, the longest first; a path without any is its own."""
    words = path.split(".")
    return [".".join(words[: place + 1]) for place in range(len(words) - 1, -1, -1) if words[place].isdigit()] or [path]


def _list_of(path: str, depth: int | None = None) -> str | None:
    """The list that an attention module is in, the innermost at depth 0, the outermost at None; None where it is in none."""
    numbered = _numbered(path)
    name = numbered[-1 if depth is None else min(depth, len(numbered) - 1)]
    return name.rpartition(".")[0] if name.rpartition(".")[2].isdigit() else None


def _items(paths: Mapping[str, nn.Module], lists: set[str | None]) -> dict[str, list[str]]:
    """The attention modules in each item of some lists."""
    items: dict[str, list[str]] = {}
    for path in paths:
        found = next((each for each in lists if each is not None and path.startswith(f"{each}." if each else "")), None)
        if found is not None:
            place = path.removeprefix(f"{found}." if found else "").partition(".")[0]
            items.setdefault(f"{found}.{place}" if found else place, []).append(path)
    return items


def _reason(paths: Mapping[str, nn.Module], chosen: list[str]) -> str:
    """Why layers are not one list of items with one attention module each, and the lists that are, each by itself."""
    lists = {_list_of(path) for path in chosen}
    named = sorted(filter(None, lists))
    single = [each for each in named if all(len(found) == 1 for found in _items(paths, {each}).values())]
    alone = [path for path in chosen if _list_of(path) is None]
    crowded = [*alone, *(name for name, found in _items(paths, lists).items() if len(found) > 1)]
    reason = f"{some(crowded)} has no single attention module of its own" if crowded else f"they are in {some(named)}"
    return reason + (f' (one list alone can be: convert with layers=["{single[0]}"])' if single else "")


class LayerArguments:
    """Reads off a model what its layers are called with for a batch.

    Of the first batch the whole model runs, which tells whether every layer gets what the layer before it returned, and whether all get the
    same arguments; if they do, later batches run to the first layer only.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        self.model, self.layers = model, list(layers)
        self.alike: bool | None = None

    def read(self, batch: Batch) -> tuple[Tensor, list[Arguments]]:
        """The hidden states before the first layer, and the arguments of every layer.

        Raises:
            ValueError: the model refuses the inputs.
            NotImplementedError: its layers cannot be run one at a time.
        """
        states: list[Tensor] = []  # before the first layer, and the latest
        calls: list[Arguments] = []

        def _before(_: nn.Module, positional: tuple[Any, ...], keyword: dict[str, Any]) -> None:
            hidden = positional[0] if positional else keyword[HIDDEN]
            if calls and not _same(hidden, states[-1]):
                raise self._refusal(f"{self.layers[len(calls)].name} is called with something else than the layer before it returned")
            states.extend([] if calls else [hidden])
            calls.append(self._kept(positional, keyword))
            if self.alike:
                raise _EnoughError

        def _after(_: nn.Module, __: object, output: object) -> None:
            states[1:] = [first(output)]

        with (
            _hooked(
                *(layer.module.register_forward_pre_hook(_before, with_kwargs=True) for layer in self.layers),
                *(layer.module.register_forward_hook(_after) for layer in self.layers),
            ),
            without_cache(self.model),
            suppress(_EnoughError),
        ):
            run_model(self.model, batch)
        if len(calls) != len(self.layers) and not self.alike:
            raise self._refusal(f"{len(calls)} of its {len(self.layers)} layers were called for a batch of {', '.join(batch)}")
        if self.alike is None:
            self.alike = all(_equal(each, calls[0]) for each in calls)
        return states[0], calls * len(self.layers) if len(calls) == 1 else calls

    def _kept(self, positional: tuple[Any, ...], keyword: dict[str, Any]) -> Arguments:
        kept = Arguments(positional[1:], {name: value for name, value in keyword.items() if name != HIDDEN})
        others = sorted({type(each).__name__ for each in leaves(kept) if not isinstance(each, Tensor | str | int | float | None)})
        if others:
            raise self._refusal(f"they are called with {some(others)}, which cannot be kept")
        return kept if positional else Arguments((), {**kept.keyword, HIDDEN: None})

    def _refusal(self, reason: str) -> NotImplementedError:
        return NotImplementedError(f"the layers of {type(self.model).__name__} cannot be run one at a time: {reason}")


def adds_to_its_input(layer: Layer, hidden: Tensor, arguments: Arguments) -> bool:
    """Whether a layer uses its input, besides in attention, only in the sum with what the output projection returns.

    So it is where the output is added to the input at once, normalised after that or not: nothing changes then if something is taken off
    the input and added to the output.
    """
    added, wanted, _ = layer.softmax(hidden, arguments)
    taken = hidden.roll(1, -1) / 2  # no multiple of the input, which a norm would hide
    with _hooked(layer.output.register_forward_hook(lambda *_: added + taken)):
        error = layer(hidden - taken, arguments) - wanted
    return bool(error.float().norm() <= torch.finfo(hidden.dtype).eps ** 0.5 * wanted.float().norm())


def adds_to_its_output(layer: Layer, hidden: Tensor, arguments: Arguments) -> bool:
    """Whether a layer adds what the output projection returns at its very end, as one whose attention and MLP read the same input does."""
    added, wanted, _ = layer.softmax(hidden, arguments)
    more = hidden.roll(1, -1) / 2
    with _hooked(layer.output.register_forward_hook(lambda *_: added + more)):
        error = layer(hidden, arguments) - more - wanted
    return bool(error.float().norm() <= torch.finfo(hidden.dtype).eps ** 0.5 * wanted.float().norm())


def first(output: Any) -> Tensor:
    """The hidden states that a layer returns, alone or before others."""
    return output if isinstance(output, Tensor) else output[0]


@contextmanager
def _hooked(*handles: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Have a decoder keep no keys and values, which would be those of an earlier call, as its layers are called again."""
    configs: list[Any] = [config for module in model.modules() if getattr(config := getattr(module, "config", None), "use_cache", None)]
    for config in configs:
        config.use_cache = False
    try:
        yield
    finally:
        for config in configs:
            config.use_cache = True


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.equal(one.to(other.device), other))


def _equal(one: Any, other: Any) -> bool:
    """Whether two arguments hold the same tensors, and otherwise equal values."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return one is other
    return bool(one == other)


def leaves(value: Any) -> Iterator[Any]:
    """What lists, tuples and mappings hold at last."""
    if isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(each)
    else:
        yield value


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(each, device) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(each, device) for each in value)
    return value.to(device) if isinstance(value, Tensor) else value
