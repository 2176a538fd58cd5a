"""The parameters that a softmax model had before some were fitted to a polarity, and how they are put back.

LLaMA's projections have no biases, and a refit gives them some. These are new parameters without originals, and are taken away again.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import some
from ..integration.hooks import computes_tanhmax
from ..integration.patching import attention_modules, modules_by_layer
from ..integration.registration import SCORE_BIAS, heads_of
from ..settings import TanhMaxSettings, fitted_to, refitted_polarity
from .projections import find_linear

Originals = Mapping[str, Tensor] | str | os.PathLike[str]
BIASES = "attention_bias"  # the field of a config by which all projections of attention have biases


def add_biases(model: nn.Module, modules: Sequence[nn.Module]) -> None:
    """Give the projections of attention modules biases of zeros where output projections have none, and say so in the config.

    Raises:
        NotImplementedError: the config has no field for it, so a saved model would be loaded without.
    """
    if all(find_linear(model, module, "output", purpose="refitted").bias is not None for module in modules):
        return
    for module in modules:
        if getattr(module.config, BIASES, None) is not False:
            raise NotImplementedError(
                f"the output projection of {type(module).__name__} has no bias, and its config no {BIASES}, by which a saved model would "
                "be loaded with one; refit with bias=False"
            )
    for module in modules:
        setattr(module.config, BIASES, True)
        for projection in _projections(model, module):
            if projection.bias is None:
                zeros = torch.zeros(projection.out_features, dtype=projection.weight.dtype, device=projection.weight.device)
                projection.bias = nn.Parameter(zeros, requires_grad=projection.weight.requires_grad)


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
        settings = TanhMaxSettings(view.tanhmax_polarity, chosen, heads, shift=shift)  # type: ignore[arg-type]  # which makes tuples
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
    """Names of the biases that a refit added: all of attention, where an output weight has an original and the bias beside it has none."""
    names: dict[Tensor, str] = {value: name for name, value in model.named_parameters()}
    by_module = [_projections(model, module) for module in attention_modules(model)]
    if not any(names[output.weight] in originals and names.get(output.bias, "") not in {"", *originals} for *_, output in by_module):
        return []
    return [names[each.bias] for projections in by_module for each in projections if each.bias is not None]


def _projections(model: nn.Module, module: nn.Module) -> list[nn.Linear]:
    return [find_linear(model, module, role, purpose="refitted") for role in ("query", "key", "value", "output")]
