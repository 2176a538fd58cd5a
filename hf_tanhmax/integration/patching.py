"""Turn the attention of a live model into TanhMax, layer by layer, and back.

Attention modules of Transformers ask `self.config._attn_implementation` which function to call. A patched module gets a view of its
config that answers this one question with TanhMax, and passes everything else through. So `eager` and `sdpa` keep their meaning (with
weights; fast, without weights), nothing is copied or replaced, nothing global changes, and putting the config back undoes it.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..functional import Shift, check_polarity
from ..settings import LEARNED, Refitted, TanhMaxSettings, check_refitted, fitted_to
from .chosen_modules import chosen_modules, modules_by_layer
from .detection.attention_facts import attention_facts, softmax_parts
from .model_names import rename_patched
from .registration import CLASSES_ONLY, EAGER, FUSED, PAGED, SCORE_BIAS, heads_of
from .serving import put_off_updates, update_at_once

# What the config says, and the function that stands for it. Any other name computes softmax and is refused.
FUNCTIONS = {"eager": EAGER, "sdpa": FUSED, "paged|eager": PAGED, "paged|sdpa": PAGED, FUSED: FUSED, EAGER: EAGER}
FUNCTIONS[CLASSES_ONLY] = FUSED  # of a config that a softmax class has taken as well


class ConfigView:
    """A config as a TanhMax attention module sees it.

    Args:
        config: the config, or another view, that all else is passed through to.
        settings: what this view answers for itself; None where the config itself holds TanhMax settings.
        owned: whether the view belongs to a TanhMax class, so that `restore` must leave it.
        carried: names of the model's inputs that reach the attention interface along with others, and not by the module's own doing.
        holder: the config that holds the TanhMax settings; of a model of several parts, such as CLIP, `config` is that of a part. None is
            `config`.
    """

    def __init__(
        self,
        config: "PreTrainedConfig | ConfigView",
        settings: TanhMaxSettings | None = None,
        *,
        owned: bool = False,
        carried: frozenset[str] = frozenset(),
        holder: PreTrainedConfig | None = None,
    ) -> None:
        vars(self)["_config"] = config
        vars(self)["_holder"] = config if holder is None else holder
        vars(self)["owned"] = owned
        vars(self)["carried"] = carried
        vars(self)["settled"] = None
        vars(self)["learned"] = settings is not None and settings.learned
        if settings is not None:
            vars(self)["tanhmax_polarity"] = settings.polarity
            vars(self)["tanhmax_heads"] = settings.heads
            vars(self)["tanhmax_shift"] = settings.shift

    @property
    def _attn_implementation(self) -> str:
        if self.settled is not None and [layers := _layer_list(self._holder.tanhmax_layers)] != self.settled:
            raise ValueError(
                f"tanhmax_layers of the config was changed from {self.settled[0]} to {layers}, but which layers compute TanhMax is settled "
                "when a model is made: put it back, or make a model of a copy of the config"
            )
        if self.learned and self.tanhmax_polarity != LEARNED:
            raise ValueError(
                f'tanhmax_polarity of the config was changed from "learned" to {self.tanhmax_polarity}, which would ignore the score '
                "biases of the model: put it back, or make a model of a copy of the config"
            )
        name = self._config._attn_implementation
        if name is None:
            raise ValueError(
                'attn_implementation is None, for which Transformers makes no mask, so padding would be seen; set it to "sdpa" or "eager"'
            )
        if name not in FUNCTIONS:
            if "/" in name:
                raise ValueError(
                    f'attn_implementation="{name}" is a kernel of the Hub, but this layer is set to TanhMax by itself; use "sdpa" (fast) '
                    'or "eager" (returns weights)'
                )
            raise ValueError(
                f'attn_implementation="{name}" computes softmax, but this layer is set to TanhMax; use "sdpa" (fast) or "eager" '
                "(returns weights), or restore the model first"
            )
        return FUNCTIONS[name]

    @property
    def masks_are_whole(self) -> bool:
        """Whether masks are made for Transformers' own `eager`, which has no causality but the mask's: without one nothing is hidden."""
        config = self._config
        return config.masks_are_whole if isinstance(config, ConfigView) else config._attn_implementation == "eager"

    @property
    def plain(self) -> PreTrainedConfig:
        """The module's own config, which may be that of a part of the model."""
        return self._config.plain if isinstance(self._config, ConfigView) else self._config

    def __getattr__(self, name: str) -> Any:
        if name in ("_config", "_holder"):  # while unpickling there is no config yet
            raise AttributeError(name)
        return getattr(self._holder if name.startswith("tanhmax_") else self._config, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in vars(self):
            vars(self)[name] = value
        else:
            setattr(self._holder if name.startswith("tanhmax_") else self._config, name, value)


def _layer_list(layers: Iterable[int | str] | None) -> list[int | str] | None:
    return None if layers is None else list(layers)


class PatchableModule(nn.Module):
    """A module that asks the attention interface, as annotations name it; none is made.

    Of a file that defines an `...Attention...(nn.Module)`, Transformers would take it that no implementation can be set.
    """

    config: PreTrainedConfig | ConfigView


def use_tanhmax(model: nn.Module, settings: TanhMaxSettings | None = None) -> int:
    """Make a live model compute TanhMax attention, in place. It is not saved with the model; `hf_tanhmax.convert` makes one that is.

    Args:
        model: any Transformers model that uses the attention interface, also inside PEFT, DDP or `torch.compile`.
        settings: polarity, layers, heads and shift; None is TanhMax everywhere. Layers that are not chosen stay as they are.

    Returns:
        The number of attention modules patched.

    Raises:
        ValueError: no attention module asks the interface, some bypass it, a layer or head does not exist, or projections were refitted
            to other settings.
        NotImplementedError: a chosen module has attention sinks or selects keys sparsely.
    """
    patched = _patch(model, settings or TanhMaxSettings())
    rename_patched(model, patched=True)
    return len(patched)


def restore(model: nn.Module) -> int:
    """Undo every `use_tanhmax` on a model; returns the number of attention modules restored.

    Raises:
        ValueError: the model is TanhMax by its class, which `to_softmax` converts; nothing is patched; or projections were refitted.
    """
    restored = owned = 0
    for module in model.modules():
        view = getattr(module, "config", None)
        while isinstance(view, ConfigView) and not view.owned:
            view = view._config
        if view is not getattr(module, "config", None):
            if not isinstance(view, ConfigView):
                # Which the first module says, before any is restored.
                check_refitted({"polarity": 0.0}, _refitted(cast(PreTrainedConfig, view)))
            _put_back(cast(PatchableModule, module), cast(PreTrainedConfig | ConfigView, view))
            restored += 1
            if not isinstance(view, ConfigView):
                _drop_score_bias(module)
        owned += isinstance(view, ConfigView)
    if not restored:
        reason = "is TanhMax by its class; use hf_tanhmax.to_softmax" if owned else "computes no TanhMax"
        raise ValueError(f"nothing to restore: {type(model).__name__} {reason}")
    rename_patched(model, patched=False)
    return restored


@contextmanager
def tanhmax_on(
    model: nn.Module,
    *,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    polarity: float = 1.0,
    shift: Shift = None,
) -> Iterator[nn.Module]:
    """Compute TanhMax inside a `with` block, in some layers and heads, and put everything back after it; blocks nest.

    Args:
        model: as for `use_tanhmax`.
        layers: indices of layers; None is all.
        heads: indices of heads; None is all. The other heads of those layers compute softmax inside the block.
        polarity: 1 is TanhMax, 0 softmax.
        shift: as in `TanhMaxSettings`.

    Raises:
        ValueError, TypeError, NotImplementedError: as `use_tanhmax` and `TanhMaxSettings`; a learned polarity needs `use_tanhmax`.
    """
    settings = TanhMaxSettings(polarity=polarity, layers=layers, heads=heads, shift=shift)  # type: ignore[arg-type]  # which makes tuples of them
    if settings.learned:
        raise ValueError('polarity="learned" adds parameters to the model, which a block cannot undo; call use_tanhmax instead')
    before = [(module, module.config) for layer in modules_by_layer(model).values() for module in cast(list[PatchableModule], layer)]
    _patch(model, settings)
    rename_patched(model, patched=True)
    try:
        yield model
    finally:
        for module, config in before:
            _put_back(module, config)
        rename_patched(model, patched=any(isinstance(config, ConfigView) and not config.owned for _, config in before))


def set_polarity(model: nn.Module, polarity: float) -> None:
    """Set the polarity of every TanhMax layer of a model, and in the config that will be saved with it; its shift stays.

    Raises:
        ValueError: outside [0, 1], nothing computes TanhMax, the polarity is learned, or projections were refitted to another.
    """
    if not isinstance(check_polarity(polarity), float):
        raise TypeError("polarity must be a number; a polarity per head is learned: TanhMaxSettings(polarity='learned')")
    views = [view for module in model.modules() if isinstance(view := getattr(module, "config", None), ConfigView)]
    if not views:
        raise ValueError(f"{type(model).__name__} computes no TanhMax, so it has no polarity to set; call use_tanhmax first")
    for view in views:
        if TanhMaxSettings(polarity=view.tanhmax_polarity).learned:
            raise ValueError("the polarity of this model is learned, one score bias per head; it cannot be set")
        check_refitted({"polarity": float(polarity)}, _refitted(view))
    for view in views:
        view.tanhmax_polarity = float(polarity)


def _refitted(config: PreTrainedConfig | ConfigView) -> Refitted:
    """What output projections were refitted to, as a config says; another library's config says nothing."""
    return getattr(config, "tanhmax_refitted_polarity", None)


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of a model that ask Transformers' attention interface which function to call, in the model's order."""
    return [module for module in model.modules() if attention_facts(module).asks]


def own(model: PreTrainedModel) -> None:
    """Patch a model of a TanhMax class, whose config holds the settings; what is patched already stays."""
    settings = model.config.tanhmax_settings
    chosen = cast(list[PatchableModule], chosen_modules(model, settings))
    if settings.softmax_parts is None and (parts := softmax_parts(model)):  # as layers were chosen
        model.config.tanhmax_softmax_parts = list(parts)
    inputs = _inputs(model)
    for module in chosen:
        if not isinstance(module.config, ConfigView):
            if module.config._attn_implementation is None and model.config._attn_implementation is not None:
                module.config._attn_implementation = "eager"  # of a part that Transformers gave none, and so computes it without masks
            view = ConfigView(module.config, owned=True, carried=inputs - attention_facts(module).passes, holder=model.config)
            _patch_module(module, view, settings)


def settle_layers(model: PreTrainedModel) -> None:
    """Have the views of a model of a TanhMax class refuse a config whose layers are changed, or whose polarity is learned no more."""
    settled, learned = [_layer_list(model.config.tanhmax_layers)], model.config.tanhmax_settings.learned
    for module in attention_modules(model):
        view = module.config
        if isinstance(view, ConfigView) and view.owned:
            vars(view).update(settled=settled, learned=learned)


def _patch(model: nn.Module, settings: TanhMaxSettings) -> list[PatchableModule]:
    chosen = cast(list[PatchableModule], chosen_modules(model, settings))
    layers = list(modules_by_layer(model).values())
    # Those that compute TanhMax already do so afterwards, too.
    after = (number for number, layer in enumerate(layers) if any(each in chosen or isinstance(each.config, ConfigView) for each in layer))
    asked = replace(settings, layers=tuple(after))
    for module in chosen:
        if (refitted := _refitted(module.config)) is not None:
            check_refitted(fitted_to(asked, len(layers), heads_of(module)), refitted)
    if settings.learned and any(getattr(module, SCORE_BIAS, None) is None for module in chosen):
        _refuse_wrapped(model)
    inputs = _inputs(model)
    for module in chosen:
        view = ConfigView(module.config, replace(settings, layers=None), carried=inputs - attention_facts(module).passes)
        _patch_module(module, view, settings)
    return chosen


def _refuse_wrapped(model: nn.Module) -> None:
    """Refuse to add score biases to a model that was handed out to processes already, which would train each its own."""
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    for kind in sorted(kinds & {"DistributedDataParallel", "FSDPModule", "FullyShardedDataParallel"}):
        raise ValueError(
            f"the model is inside {kind} already, which shares no parameters that come later: call use_tanhmax before it is wrapped"
        )


def _inputs(model: nn.Module) -> frozenset[str]:
    """What the modules of a model take by name, some of which they hand on to all that they call."""
    return frozenset().union(*(_arguments(type(module).forward) for module in model.modules()))


@functools.lru_cache(maxsize=4096)
def _arguments(forward: Callable[..., object]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def _patch_module(module: PatchableModule, view: ConfigView, settings: TanhMaxSettings) -> None:
    if settings.learned and getattr(module, SCORE_BIAS, None) is None:
        add_score_bias(module, settings.score_bias)
    module.config = view
    put_off_updates(module)


def _put_back(module: PatchableModule, config: PreTrainedConfig | ConfigView) -> None:
    module.config = config
    if not isinstance(config, ConfigView):
        update_at_once(module)


def add_score_bias(module: nn.Module, value: float) -> None:
    """Give an attention module a score bias per head, float32, on the device where it computes."""
    bias = nn.Parameter(torch.full((heads_of(module),), value, dtype=torch.float32, device=_device_of(module)))
    shared_out: Any = next((each for each in module.parameters() if hasattr(each, "ds_id")), None)
    module.register_parameter(SCORE_BIAS, bias)
    if shared_out is not None:  # by ZeRO-3, which takes what comes after a module's `__init__` for no weight to load in all processes
        shared_out.convert_to_zero_parameters(param_list=[bias])


def _device_of(module: nn.Module) -> torch.device:
    """Where a module computes: accelerate may keep its weights elsewhere, and bring them there for every call."""
    owner, weight = next(
        (each, value) for each in module.modules() for name, value in each.named_parameters(recurse=False) if name != SCORE_BIAS
    )
    brought_to = getattr(getattr(owner, "_hf_hook", None), "execution_device", None)
    return weight.device if brought_to is None else torch.device(brought_to)


def _drop_score_bias(module: nn.Module) -> None:
    if SCORE_BIAS in module._parameters:
        delattr(module, SCORE_BIAS)
