"""The parameters that a softmax model had before some were fitted to a polarity, and how they are put back.

LLaMA's projections have no biases, and a refit gives them some. These are new parameters without originals, and are taken away again.
"""

import copy
import os
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import some
from ..integration.chosen_modules import modules_by_layer
from ..integration.hooks import computes_tanhmax
from ..integration.patching import ConfigView, attention_modules
from ..integration.registration import SCORE_BIAS, heads_of
from ..settings import TanhMaxSettings, fitted_to, refitted_polarity
from .projections import find_linear, find_plain

Originals = Mapping[str, Tensor] | str | os.PathLike[str]
BIASES = "attention_bias"  # the field of a config by which all projections of attention have biases


def can_add_biases(model: nn.Module, modules: Sequence[nn.Module]) -> bool:
    """Whether the output projections of attention modules have biases, or the model can be saved and loaded with them."""
    without = [module for module in modules if find_plain(model, module, "output", purpose="refitted").bias is None]
    return not without or _has_all(model, without, _optional_biases(model, modules))


def add_biases(model: nn.Module, modules: Sequence[nn.Module]) -> None:
    """Give the projections of attention modules biases of zeros where output projections have none, and say so in the config.

    Raises:
        NotImplementedError: the config has no field for it, so a saved model would be loaded without.
    """
    without = [module for module in modules if find_linear(model, module, "output", purpose="refitted").bias is None]
    if not without:
        return
    names = _optional_biases(model, modules)
    if not _has_all(model, without, names):
        raise NotImplementedError(
            f"the output projection of {type(without[0]).__name__} has no bias, and its config no {BIASES}, by which a saved model would "
            "be loaded with one; refit with bias=False"
        )
    for module in modules:
        setattr(module.config, BIASES, True)
    for name in names:
        projection: Any = model.get_submodule(name.rpartition(".")[0])
        zeros = torch.zeros(projection.out_features, dtype=projection.weight.dtype, device=projection.weight.device)
        projection.bias = nn.Parameter(zeros, requires_grad=projection.weight.requires_grad)


def _has_all(model: nn.Module, modules: Sequence[nn.Module], names: set[str]) -> bool:
    """Whether some names of biases hold those of all output projections, and of linear layers alone."""
    linear = {f"{name}.bias": module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    outputs = {id(find_plain(model, module, "output", purpose="refitted")) for module in modules}
    return names <= linear.keys() and outputs <= {id(linear[name]) for name in names}


def _optional_biases(model: nn.Module, modules: Sequence[nn.Module]) -> set[str]:
    """The parameters that a model has if the configs of attention modules say so by a field, and otherwise has not; none without it."""
    configs: list[Any] = [module.config for module in modules]
    if not isinstance(model, PreTrainedModel) or any(not isinstance(getattr(config, BIASES, None), bool) for config in configs):
        return set()
    before, names = [getattr(config, BIASES) for config in configs], list[set[str]]()
    try:
        for value in (False, True):
            for config in configs:
                setattr(config, BIASES, value)
            with torch.device("meta"):
                names.append({name for name, _ in type(model)(copy.deepcopy(model.config)).named_parameters()})
    finally:
        for config, value in zip(configs, before, strict=True):
            setattr(config, BIASES, value)
    return names[1] - names[0]


def put_back(model: nn.Module, originals: Mapping[str, Tensor]) -> None:
    """Copy originals into a model, and take away the biases that a refit gave it."""
    added = _added_biases(model, originals)
    with torch.no_grad():
        for name, value in originals.items():
            model.get_parameter(name).copy_(value)
    for name in added:
        projection: Any = model.get_submodule(name.rpartition(".")[0])
        projection.bias = None
    for module in attention_modules(model) if added else []:
        if getattr(module.config, BIASES, None) is not None and _bias_of_output(model, module) is not None:
            setattr(module.config, BIASES, False)


def settings_to_fit(model: nn.Module) -> dict[str, Any]:
    """Polarity, shift, layers and heads of a model, as its config keeps them once projections are fitted to them.

    Raises:
        ValueError: layers that compute TanhMax differ in them.
    """
    layers = list(modules_by_layer(model).values())
    modules = {index: [each for each in layer if computes_tanhmax(each.config)] for index, layer in enumerate(layers)}
    chosen = [index for index, each in modules.items() if each]
    found = []
    for module in [each for index in chosen for each in modules[index]]:
        view: Any = module.config
        heads, shift = getattr(view, "tanhmax_heads", None), getattr(view, "tanhmax_shift", None)
        named = getattr(view, "tanhmax_layers", None) or ()  # as a config says it, which counts layers by its own fields
        which = named if any(isinstance(each, str) for each in named) else chosen
        settings = TanhMaxSettings(view.tanhmax_polarity, which, heads, shift=shift)  # type: ignore[arg-type]  # which makes tuples
        found.append(fitted_to(settings, len(layers), heads_of(module)))
    for name, value in found[0].items():
        if others := sorted({str(each[name]) for each in found if each[name] != value}):
            raise ValueError(
                f"layers of {type(model).__name__} have {name} {value} and others {some(others)}; give all the same"
                + (", or let heads learn it" if name == "polarity" else "")
            )
    return found[0]


def undo_refit(model: nn.Module, originals: Originals) -> None:
    """Give a model back the parameters that it had before they were fitted to a polarity, in place; any polarity can be set then.

    Args:
        model: as `refit` left it.
        originals: what its report calls so, or a safetensors file of them.

    Raises:
        ValueError: nothing was refitted, or these are not the originals of this model.
    """
    if getattr(getattr(model, "config", None), "tanhmax_refitted_polarity", None) is None:
        raise ValueError(f"no projection of this {type(model).__name__} was refitted, so there is nothing to undo")
    put_back(model, read_originals(model, originals))
    for module in attention_modules(model):
        module.config.tanhmax_refitted_polarity = None  # type: ignore[union-attr]


def softmax_weights(model: nn.Module, originals: Originals | None) -> dict[str, Tensor]:
    """The state dictionary of a TanhMax model with its originals in it, and without score biases and the biases that a refit gave it.

    Raises:
        ValueError: originals that a refitted model needs and are not there, or that are of another model, or of one that was not refitted.
    """
    config: Any = model.config
    weights, refitted = model.state_dict(), config.tanhmax_refitted_polarity
    if originals is None and refitted is not None:
        raise ValueError(
            f"the projections of this {type(model).__name__} were refitted to polarity {refitted_polarity(refitted)}, and softmax "
            "computes something else with them; pass "
            "originals=, which the refit returned (report.originals) or wrote (softmax_projections.safetensors)"
        )
    if originals is None:
        return weights
    if refitted is None:
        raise ValueError(f"no projection of this {type(model).__name__} was refitted, so it needs no originals")
    found = read_originals(model, originals)
    for name in [*_added_biases(model, found), *(name for name in weights if name.endswith(SCORE_BIAS))]:
        del weights[name]
    return {**weights, **{name: value.to(weights[name].device, weights[name].dtype) for name, value in found.items()}}


def say_without_biases(model: PreTrainedModel, names: Set[str], config: PreTrainedConfig) -> None:
    """Say of biases that a refit added, in a config like that of the model, that they are gone: each part of a config says it of its own.

    Args:
        model: that has them.
        names: of parameters that are gone, and others.
        config: of the same parts as the model's.
    """
    owners = [module for module in attention_modules(model) if _bias_of_output(model, module) in names]
    holders = {id(module.config.plain if isinstance(module.config, ConfigView) else module.config) for module in owners}
    pairs = [(model.config, config)]
    while pairs:
        mine, other = pairs.pop()
        if id(mine) in holders:
            setattr(other, BIASES, False)
        pairs += [(getattr(mine, key), getattr(other, key)) for key in mine.sub_configs if getattr(mine, key, None) is not None]


def read_originals(model: nn.Module, originals: Originals) -> dict[str, Tensor]:
    """Originals by the names that they have in a model, which may have a head that they were saved without, or the other way round.

    Raises:
        ValueError: the model has no such parameters, or has them in other shapes, or some layer that computes TanhMax has none.
    """
    if isinstance(originals, str | os.PathLike):
        from safetensors.torch import load_file

        originals = load_file(originals)
    parameters, prefix = dict(model.named_parameters()), f"{getattr(model, 'base_model_prefix', '')}."
    found = {}
    for name, value in originals.items():
        mine = next((each for each in (name, prefix + name, name.removeprefix(prefix)) if each in parameters), name)
        if mine not in parameters or parameters[mine].shape != value.shape:
            raise ValueError(f"{type(model).__name__} has no {name} of shape {tuple(value.shape)}; pass the originals of this model")
        found[mine] = value
    names = {module: name.rpartition(".")[0] for name, module in model.named_modules()}
    chosen = [names[module] for module in attention_modules(model) if computes_tanhmax(module.config)]
    without = [name for name in chosen if not any(each.startswith(f"{name}.") for each in found)]
    if without:
        raise ValueError(f"the originals lack those of {some(without)}; pass all that were returned or written")
    return found


def _added_biases(model: nn.Module, originals: Mapping[str, Tensor]) -> list[str]:
    """Names of the biases that a refit added: where an output weight has an original and the bias beside it has none."""
    weights, there = {name for name in originals if name.endswith(".weight")}, dict(model.named_parameters())
    biases = {name.removesuffix("weight") + "bias" for name in weights}
    added = [module for module in attention_modules(model) if _bias_of_output(model, module) in (biases & there.keys()) - originals.keys()]
    return sorted(_optional_biases(model, added) & there.keys()) if added else []


def _bias_of_output(model: nn.Module, module: nn.Module) -> str | None:
    """The name of the bias of an attention module's output projection; None where it is no plain linear layer."""
    try:
        output = find_plain(model, module, "output")
    except NotImplementedError:
        return None
    return next(f"{name}.bias" for name, each in model.named_modules() if each is output)
