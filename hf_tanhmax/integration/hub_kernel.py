"""What a kernel repository of the Hub hands to Transformers: the attention function, and what is asked of the model that calls it.

`from_pretrained(name, attn_implementation="owner/name")` gives `flash_attn_forward` to every attention module of a model, with boolean
masks. Nothing else of the model is known to it: no class of ours, no settings, nothing that is saved. So

* settings are attributes of the config that the attention modules have: `tanhmax_polarity` (1.0), `tanhmax_shift`, `tanhmax_heads`, as in
  `TanhMaxSettings`; `tanhmax_softmax_parts` accepts parts that compute softmax by themselves. Any other is refused;
* at its first call a model is looked for among those that are calling, and refused where part of it would stay softmax;
* the model that Transformers loads the kernel for is refused at its own first call where it never called the kernel. Transformers loads a
  kernel once, so no later model is seen that never calls it;
* the config gets `tanhmax_kernel`, the name of the kernel. `save_pretrained` writes that, and forgets which attention is to be called. A
  warning says so, once.
"""

import functools
import inspect
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from ..settings import LEARNED
from .detection.attention_facts import attention_facts, softmax_parts
from .registration import SCORE_BIAS, fused_forward, refused_argument

KERNEL_NOTE = "tanhmax_kernel"
KERNEL_EXAMINED = "tanhmax_examined"
AWAITED: "weakref.WeakKeyDictionary[nn.Module, Any]" = weakref.WeakKeyDictionary()  # models that loaded the kernel, and their hooks
KERNEL_SETTINGS = ("tanhmax_polarity", "tanhmax_shift", "tanhmax_heads", "tanhmax_softmax_parts")


def supports_flash_attn() -> bool:
    """True; that it is there tells Transformers that `flash_attn_forward` is called as its own attention functions are."""
    return True


def flash_attn_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """TanhMax attention for Transformers: `registration.fused_forward`, for models that were examined.

    Args:
        module: the attention module; its config says how signed the weights are.
        query: `[batch, heads, queries, head_dim]`; key and value may have fewer heads.
        key: `[batch, kv_heads, keys, head_dim]`.
        value: `[batch, kv_heads, keys, value_dim]`.
        attention_mask: None, boolean (True takes part) or additive; 4-dimensional.
        **kwargs: what Transformers passes along; an argument that would change the result and is not honoured is refused.

    Returns:
        Output `[batch, queries, heads, value_dim]`, contiguous, and the weights `[batch, heads, queries, keys]` if the caller passed
        `output_attentions=True`, else None.

    Raises:
        ValueError: part of the model would stay softmax, or a setting has no effect.
        NotImplementedError: attention sinks, sparse key selection, sequence parallelism, or a tensor of unknown meaning.
        ImportError: within torch's `context_parallel`, where hf_tanhmax is not installed.
    """
    if not getattr(module, KERNEL_EXAMINED, False):
        _examine(module)
    return fused_forward(module, query, key, value, attention_mask, **kwargs)


def await_call() -> None:
    """Look, while Transformers loads the kernel, for the model that it is loaded for, which is refused if it never calls it."""
    model = next(_callers(), None)  # which may be without its modules as yet
    if model is not None and model not in AWAITED:
        AWAITED[model] = model.register_forward_hook(_after_call)


def _after_call(model: nn.Module, _inputs: Any, _output: Any) -> None:
    _refuse_ignoring(model)


# A compiler runs this while it traces the first call, as it does `_examine`.
@torch.compiler.assume_constant_result
def _refuse_ignoring(model: nn.Module) -> None:
    name, known = _implementation(model), AttentionInterface()
    if known.get(name) is flash_attn_forward and not any(getattr(each, KERNEL_EXAMINED, False) for each in model.modules()):
        raise ValueError(ignores_kernels(model, name))
    if (hook := AWAITED.pop(model, None)) is not None:
        hook.remove()


def ignores_kernels(model: nn.Module, name: str) -> str:
    """A sentence about a model none of whose modules calls a kernel."""
    parts = ", ".join(softmax_parts(model))
    found = f"its {parts} compute softmax themselves, without asking" if parts else "it has no attention module that asks"
    return (
        f'{type(model).__name__} ignores attn_implementation="{name}": {found} Transformers\' attention interface; choose an architecture '
        "that asks it, such as BERT, ViT or LLaMA"
    )


# A compiler runs this while it traces the first call, when the model is among the callers as well.
@torch.compiler.assume_constant_result
def _examine(module: nn.Module) -> None:
    """Refuse a model that this kernel cannot serve as a whole; mark those of its modules that call it, and their configs."""
    model = _calling_model(module)
    name = _implementation(module)
    asking = [each for each in (model or module).modules() if each is module or attention_facts(each).asks]
    own = [each for each in asking if _implementation(each) == name]
    for each in own:
        for argument in attention_facts(each).refused:
            raise NotImplementedError(refused_argument(each, argument))
        _check_settings(each)
    if model is not None:
        _check_place_of_settings(model, own)
        if len(own) == len(asking):  # else parts were chosen, and the others are softmax by intention
            _check_whole(model, own)
    for each in own:
        setattr(each, KERNEL_EXAMINED, True)
        setattr(each.config, KERNEL_NOTE, name)
    _say_forgotten(name)


def _calling_model(module: nn.Module) -> PreTrainedModel | None:
    """The largest model among the callers that holds a module; None where the module is called by itself."""
    found = None
    for caller in _callers():
        if caller is not found and any(each is module for each in caller.modules()):
            found = caller
    return found


def _callers() -> Iterator[PreTrainedModel]:
    frame = inspect.currentframe()
    while frame is not None:
        if isinstance(caller := frame.f_locals.get("self"), PreTrainedModel):
            yield caller
        frame = frame.f_back


def _implementation(module: nn.Module) -> str:
    return str(getattr(getattr(module, "config", None), "_attn_implementation", None))


def _check_settings(module: nn.Module) -> None:
    config: Any = getattr(module, "config", None)
    others = sorted(name for name in vars(config) if name.startswith("tanhmax_") and name not in (*KERNEL_SETTINGS, KERNEL_NOTE))
    if any(getattr(config, name) is not None for name in others):
        raise ValueError(
            f"the config of {type(module).__name__} has {', '.join(others)}, which a kernel cannot honour: it takes "
            f"{', '.join(KERNEL_SETTINGS)}; for all else use hf_tanhmax.convert"
        )
    if getattr(config, "tanhmax_polarity", 1.0) == LEARNED and not hasattr(module, SCORE_BIAS):
        raise ValueError(
            f"tanhmax_polarity is {LEARNED!r}, but {type(module).__name__} has no parameters for it: give a number from 0 to 1, or use "
            "hf_tanhmax.convert"
        )


def _check_place_of_settings(model: PreTrainedModel, own: list[nn.Module]) -> None:
    """Refuse settings on the config of a model of several parts, such as CLIP, whose attention modules have the configs of the parts."""
    config = model.config
    parts = {id(part): key for key in config.sub_configs if (part := getattr(config, key, None)) is not None}
    for name in KERNEL_SETTINGS[:3]:
        if name not in vars(config):
            continue
        for each in own:
            if getattr(each.config, name, None) != getattr(config, name):
                where = parts.get(id(each.config), type(each.config).__name__)
                raise ValueError(
                    f"{name} was set on the config of the whole {type(model).__name__}, where {type(each).__name__} does not look: set it "
                    f"on config.{where}"
                )


def _check_whole(model: PreTrainedModel, own: list[nn.Module]) -> None:
    configs = (model.config, *(each.config for each in own))
    accepted = {name for config in configs for name in getattr(config, "tanhmax_softmax_parts", None) or ()}
    there = softmax_parts(model)
    others = {name: paths for name, paths in there.items() if name not in accepted}
    if others:
        where = ", ".join(f"{name} ({', '.join(paths[:3])})" for name, paths in others.items())
        raise ValueError(
            f"part of {type(model).__name__} would stay softmax: {where} do not ask Transformers' attention interface; to accept that, set "
            f"config.tanhmax_softmax_parts = {list(there)}"
        )


@functools.cache
def _say_forgotten(name: str) -> None:
    warnings.warn(
        f'the attention of this model is TanhMax because of attn_implementation="{name}", which save_pretrained forgets: what it saves '
        "loads as softmax unless that is given again. For a checkpoint that remembers it, install hf_tanhmax and save "
        f"hf_tanhmax.convert(model); config.json keeps a note ({KERNEL_NOTE}), which hf-tanhmax doctor reads",
        stacklevel=4,
    )
