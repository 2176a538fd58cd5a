"""From a softmax checkpoint to a TanhMax one and back: the same weights under the other family's config and class.

By name, the TanhMax class loads the softmax checkpoint itself, as its weights have the same names; so where they go (devices, disk, ranks),
in which dtype and how quantised is Transformers' own business. A live model shares its weights with the result.
"""

import copy
import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, TypedDict

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..errors import some
from ..functional import Shift
from ..integration.kernel_note import compare_with_kernel, is_own_kernel, without_kernel
from ..integration.model_names import converted_name
from ..integration.patching import add_score_bias, attention_modules
from ..integration.registration import SCORE_BIAS
from ..models.architectures import config_of, head_of
from ..models.family import TanhMaxFields
from ..settings import LEARNED, TanhMaxSettings
from .calibration.calibrate import calibrate as calibrate_model
from .calibration.inputs import calibration_batches
from .calibration.plan import BALANCE, Plan
from .originals import Originals, say_without_biases, softmax_weights
from .projections import aligns_by_default, projections_in
from .softmax_config import HUB, class_that_loads, config_of_checkpoint, of_other_code, refusals_in_words, refuse_tanhmax_parts

logger = logging.getLogger(__name__)

# What belongs to the origin of a config and not to its contents.
ORIGIN = ("model_type", "architectures", "auto_map", "transformers_version", "_name_or_path")


class LoadingReport(TypedDict):
    """What `from_pretrained(..., output_loading_info=True)` says of a checkpoint's weights."""

    missing_keys: set[str]
    unexpected_keys: set[str]
    mismatched_keys: set[tuple[object, ...]]  # name, and the two shapes


def convert(
    model: str | os.PathLike[str] | PreTrainedModel,
    auto_class: type | None = None,
    *,
    polarity: float | str | None = None,
    layers: Iterable[int | str] | None = None,
    heads: Iterable[int] | None = None,
    score_bias: float = 3.0,
    shift: Shift = None,
    calibrate: Iterable[object] | None = None,
    balance: float = BALANCE,
    refit: bool | None = None,
    transfer_steps: int = 0,
    softmax_parts: Iterable[str] | None = None,
    processor: Any = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """Turn a softmax model into its TanhMax class: of any architecture of Transformers that asks the attention interface.

    At polarity 0 the result computes what the softmax model computed. At polarity 1 it does not: weights trained for softmax are calibrated
    with some inputs (`calibrate`), or need fine-tuning with a polarity that grows from 0 (`hf_tanhmax.PolarityCallback`) or is learned.
    `hf_tanhmax.conversion.calibrate` calibrates a model that is converted already, and returns the report.

    Args:
        model: a Hub name or a folder, or a live model, whose weights are then shared with the result.
        auto_class: the Auto class that gives the head, for a name; None takes the class that the checkpoint was saved from.
        polarity: in [0, 1], or `"learned"`; None is 1, or `balance` where a balanced shift is calibrated.
        layers: as in `TanhMaxSettings`.
        heads: as in `TanhMaxSettings`.
        score_bias: as in `TanhMaxSettings`.
        shift: as in `TanhMaxSettings`; `"balanced"` keeps much more of what a softmax model computed, at a polarity well below 1. Of a
            model that is calibrated but cannot be aligned None is `"balanced"`.
        calibrate: unlabelled inputs, such as 256 texts in all: texts, pictures, a `datasets.Dataset`, or batches. Where keys and values
            have biases and are neither rotated nor normalised (BERT, CLIP, BART), the model is aligned with them: what it computes at
            polarity 0 stays, and a live model shares the biases. Any other (LLaMA, T5, and a model of images unless a polarity is given),
            or one with a balanced shift, gets its output projections refitted where its layers can be run one at a time, and shares no
            projections of attention with a live model. The last tenth is held out to measure with.
        balance: the mass of negative weights over that of positive ones that calibration aims at, in (0, 1].
        refit: whether output projections are refitted, which then belong to the polarity; None as `calibrate` says.
        transfer_steps: steps of attention transfer, after which queries and keys belong to the polarity; 60 to 120 are usual, 0 for none.
        softmax_parts: as in `TanhMaxSettings`.
        processor: the tokenizer or image processor for `calibrate`; None reads that of the checkpoint where one is needed, of the same
            revision and subfolder. A live model does not know its own, so the main branch's is read: pass that of another.
        **kwargs: passed to `from_pretrained` (`revision`, `dtype`, `device_map`, `quantization_config`, `num_labels`, ...), for a name.

    Returns:
        A model of the TanhMax class, in evaluation mode if it was loaded. A head that the checkpoint lacks is new, and logged. The model
        is in memory only, and its name is a sentence that says so to whatever would load it by that name.

    Raises:
        ValueError: another family, a checkpoint that lacks part of the backbone or has weights of other shapes, settings out of range, or a
            live model that is quantised or whose weights are not in memory; what does not go together; inputs that calibration refuses.
        TypeError: keyword arguments or an Auto class beside a live model, or no inputs but something else to calibrate with.
        NotImplementedError: a refit or attention transfer that was asked for and that the architecture does not allow.
    """
    plan = Plan(polarity, layers, heads, score_bias, shift, calibrate is not None, balance, refit, transfer_steps, softmax_parts)
    made = convert_uncalibrated(model, auto_class, plan, **kwargs)
    if calibrate is not None:
        source = os.fspath(model) if isinstance(model, str | os.PathLike) else model.config.name_or_path
        place = {key: kwargs[key] for key in HUB if key in kwargs}
        batches = calibration_batches(made, calibrate, processor, source=source, place=place)
        plan = plan.for_model(alignable=aligns_by_default(made, polarity))
        if not isinstance(model, str | os.PathLike) and (plan.refit is not False or plan.transfer_steps):
            _own_projections(made)
        report = calibrate_model(made, batches, balance=balance, refit=plan.refit, transfer_steps=transfer_steps)
        logger.info("the %s %s", type(made).__name__, report.describe())
    elif made.config.tanhmax_polarity not in (0, LEARNED) and made.config.tanhmax_shift is None:
        _warn_uncalibrated(alignable=aligns_by_default(made, polarity))
    return made


def convert_uncalibrated(
    model: str | os.PathLike[str] | PreTrainedModel, auto_class: type | None, plan: Plan, **kwargs: Any
) -> PreTrainedModel:
    """What `convert` does before it calibrates or warns; what cannot be calibrated is refused before its weights are read."""
    _settings(plan)
    if isinstance(model, str | os.PathLike):
        return _loaded(os.fspath(model), auto_class, plan, kwargs)
    if not isinstance(model, PreTrainedModel):
        base = "; merge its adapters first, by merge_and_unload()" if hasattr(model, "merge_and_unload") else ""
        raise TypeError(f"convert takes a name, a folder or a live model of Transformers, but got {type(model).__name__}{base}")
    if kwargs or auto_class is not None:
        raise TypeError("a live model has its class and weights already; pass a name to choose an Auto class or loading arguments")
    whole: Any = type(model).config_class
    if type(model.config) in whole.sub_configs.values() and not isinstance(model.config, whole):
        raise ValueError(
            f"this {type(model).__name__} was made from a {type(model.config).__name__}, but is loaded by a {whole.__name__}, of which "
            "that is a part: convert the whole model, with layers that name the part"
        )
    target, config_class = _tanhmax_class_of(type(model))
    target_class: Any = target
    make = functools.partial(target_class, **_construction(model))
    refuse_tanhmax_parts(f"this {type(model).__name__}", model.config)
    settings = _settings(_decided(plan, make, _tanhmax_config(model.config, config_class, _settings(plan))))
    made = _with_weights_of(model, target, _tanhmax_config(model.config, config_class, settings))
    return _named(made, converted_name(model.config.name_or_path or type(model).__name__))


def to_softmax(model: PreTrainedModel, *, originals: Originals | None = None) -> PreTrainedModel:
    """The softmax model with the weights of a TanhMax one (shared, not copied). It computes something else unless polarity is 0.

    Args:
        model: of a TanhMax class.
        originals: of a model whose projections were refitted, the parameters as they were (`RefitReport.originals`, or the safetensors file
            that holds them): the softmax model gets these instead, and no learned score biases. As long as nothing was trained after the
            refit, it is to the bit the one that was refitted; what was trained in other parameters stays, and aligned biases, with which
            softmax computes what it did, up to rounding.

    Raises:
        ValueError: not a TanhMax model, or one with learned score biases, which softmax has no place for, and no refit; originals that are
            missing, are of another model, or are not needed.
    """
    cls = type(model)
    if not isinstance(model.config, TanhMaxFields):
        raise ValueError(f"{cls.__name__} is not a TanhMax class; for a patched live model use hf_tanhmax.restore")
    if model.config.tanhmax_settings.learned and model.config.tanhmax_refitted_polarity is None:
        raise ValueError("this model has learned score biases, which a softmax model has no place for; they would be lost")
    upstream: Any = cls.__mro__[1]
    config, weights = _same_config(model.config, upstream.config_class), softmax_weights(model, originals)
    say_without_biases(model, model.state_dict().keys() - weights.keys(), config)
    made = _with_weights_of(model, upstream, config, weights)
    return _named(made, converted_name(model.config.name_or_path or cls.__name__, "softmax"))


def _decided(plan: Plan, make: Callable[[PreTrainedConfig], PreTrainedModel], config: PreTrainedConfig) -> Plan:
    """The plan for a model, which is made without weights where its modules decide what calibration can do."""
    if not plan.calibrate:
        return plan.for_model(alignable=True)
    with torch.device("meta"):
        skeleton = make(copy.deepcopy(config))
    return plan.for_model(alignable=aligns_by_default(skeleton, plan.polarity))


@functools.cache
def _warn_uncalibrated(*, alignable: bool) -> None:
    if alignable:
        instead = 'pass calibrate=inputs, which aligns biases, shift="balanced" at a polarity such as 0.2'
    else:
        instead = (
            'pass calibrate=inputs, which takes shift="balanced" at polarity 0.2 and refits the output projections, shift="balanced" and '
            "polarity=0.2 alone"
        )
    logger.warning(
        "weights that were trained for softmax compute something else at a polarity above 0: an encoder loses some of its accuracy even "
        "when it is trained again, and a language model writes noise; %s, or polarity=0.0 and let hf_tanhmax.PolarityCallback raise it "
        "while you train",
        instead,
    )


def _settings(plan: Plan) -> TanhMaxSettings:
    polarity: Any = 1.0 if plan.polarity is None else plan.polarity
    return TanhMaxSettings(polarity, plan.layers, plan.heads, plan.score_bias, plan.shift, plan.softmax_parts)  # type: ignore[arg-type]  # which makes tuples


def _own_projections(model: PreTrainedModel) -> None:
    """Give a model projections of its own that it shared with the softmax model, as calibration changes them."""
    for module in attention_modules(model):
        for projection in projections_in(model, module):
            for value in projection.parameters(recurse=False):
                value.data = value.data.clone()


def _loaded(name: str, auto_class: type | None, plan: Plan, kwargs: dict[str, Any]) -> PreTrainedModel:
    hub = {key: kwargs.pop(key) for key in HUB if key in kwargs}
    config, kwargs = config_of_checkpoint(name, hub, kwargs)
    if isinstance(config, TanhMaxFields):
        raise ValueError(f"{name} is a TanhMax checkpoint already ({config.model_type}); load it with AutoModel.from_pretrained")
    refuse_tanhmax_parts(name, config)
    config_class = _tanhmax_config_class(type(config), name)
    loader: Any = auto_class
    if loader is None:  # a config that was written by hand names no class, but the checkpoint's does
        loader = _class_in(config.architectures or AutoConfig.from_pretrained(name, **hub).architectures or [])
    loader = class_that_loads(name, loader, config)
    if isinstance(loader, type) and issubclass(loader, PreTrainedModel):
        loader, config_class = _tanhmax_class_of(loader)
    make: Any = loader.from_config if hasattr(loader, "from_config") else loader
    with refusals_in_words(name, {"transformers_version": config.transformers_version}):
        settings = _settings(_decided(plan, make, _tanhmax_config(config, config_class, _settings(plan))))
        converted = _tanhmax_config(config, config_class, settings)
        model, report = loader.from_pretrained(name, config=converted, output_loading_info=True, **hub, **kwargs)
    if type(model).config_class is not config_class:
        raise ValueError(f"{loader.__name__} made a {type(model).__name__}, which is no TanhMax class; pass an Auto class of Transformers")
    refuse_partial(name, model, report)
    _bring_score_biases(model, settings)
    return _named(model, converted_name(name))


def _class_in(names: list[str]) -> type:
    found = getattr(transformers, names[0], None) if len(names) == 1 else None
    if found is None and len(names) == 1:
        raise ValueError(
            f"the checkpoint is of class {names[0]}, which Transformers {transformers.__version__} does not export; pass auto_class, such "
            "as AutoModel, or load the model and convert that"
        )
    if found is None:
        raise ValueError(f"the checkpoint does not say its class (architectures: {names}); pass auto_class, such as AutoModel")
    return found


def refuse_partial(name: str, model: PreTrainedModel, report: LoadingReport) -> None:
    """A new head is normal; a backbone with new, left over or misshapen weights is a broken checkpoint.

    Other shapes come this far only with `ignore_mismatched_sizes`, which is for heads and embeddings, of other classes, words or images.
    """
    misshapen = [str(key) for key, *_ in report["mismatched_keys"]]
    if any("embed" not in key and _in_backbone(key, model) for key in misshapen):
        raise ValueError(f"{name} has weights of other shapes than its config says: {some(misshapen)}")
    missing = [key for key in report["missing_keys"] if not key.endswith(SCORE_BIAS)]
    lost = sorted(key for key in missing if _in_backbone(key, model))
    left = sorted(key for key in report["unexpected_keys"] if _in_backbone(key, model))
    if lost:
        raise ValueError(f"{name} lacks {len(lost)} weights of its backbone, for example {some(lost)}; is the file whole?")
    if left:
        raise ValueError(f"{name} has {len(left)} weights that its config has no place for, for example {some(left)}")
    if missing or misshapen:
        logger.warning("%s has no weights for %s: they are new, so train before use", name, some([*missing, *misshapen]))


def _bring_score_biases(model: PreTrainedModel, settings: TanhMaxSettings) -> None:
    """Keep new score biases in memory in layers that go to the disk: accelerate looks for them among the checkpoint's weights there."""
    for module in attention_modules(model):
        bias = getattr(module, SCORE_BIAS, None)
        if bias is not None and bias.is_meta:
            from accelerate.hooks import remove_hook_from_module

            add_score_bias(module, settings.score_bias)
            remove_hook_from_module(module)  # of the score bias alone, which it moves; the projections inside have their own
            add_score_bias(module, settings.score_bias)


def _in_backbone(key: str, model: PreTrainedModel) -> bool:
    """Whether a weight belongs to what every head needs; a pooler and a mask token are there for some heads only."""
    parts = key.removeprefix(f"{model.base_model_prefix}.").split(".")
    children = dict(model.base_model.named_children())
    if parts[0] not in children or {"pooler", "mask_token"}.intersection(parts):
        return False
    # A head class may hold its backbone's parts itself, beside the head.
    return model.base_model is not model or "For" not in type(model).__name__ or bool(attention_modules(children[parts[0]]))


def _tanhmax_config_class(upstream: type[PreTrainedConfig], name: str) -> type[PreTrainedConfig]:
    if not _is_of_transformers(upstream):
        raise of_other_code(name, upstream.model_type)
    try:
        return config_of(upstream.model_type)
    except ValueError as error:
        raise ValueError(f"{name} cannot be converted: {error}") from error


def _is_of_transformers(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "transformers"


def _tanhmax_class_of(upstream: type[PreTrainedModel]) -> tuple[type[PreTrainedModel], type[PreTrainedConfig]]:
    config: Any = upstream.config_class
    if issubclass(config, TanhMaxFields):
        raise ValueError(f"{upstream.__name__} is a TanhMax class already; set its polarity with hf_tanhmax.set_polarity")
    config_class = _tanhmax_config_class(config, f"the {upstream.__name__}")
    if not _is_of_transformers(upstream):
        raise of_other_code(f"the {upstream.__name__}", config.model_type)
    return head_of(upstream, config_class), config_class


def _tanhmax_config(config: PreTrainedConfig, config_class: type[PreTrainedConfig], settings: TanhMaxSettings) -> PreTrainedConfig:
    compare_with_kernel(config, settings)
    converted: Any = _same_config(config, config_class)
    converted.tanhmax_polarity = settings.polarity
    converted.tanhmax_layers = None if settings.layers is None else list(settings.layers)
    converted.tanhmax_heads = None if settings.heads is None else list(settings.heads)
    converted.tanhmax_score_bias = settings.score_bias
    converted.tanhmax_shift = settings.shift
    converted.tanhmax_softmax_parts = None if settings.softmax_parts is None else list(settings.softmax_parts)
    # Until the model has its name: what reads the weights (GGUF, quantisers) knows the checkpoint's own type, and expects what it has.
    converted.model_type = config.model_type
    return converted


def _same_config(config: PreTrainedConfig, config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    values = without_kernel({key: value for key, value in config.to_dict().items() if key not in ORIGIN})
    known = set(config_class.__dataclass_fields__)
    converted = config_class(**{key: value for key, value in values.items() if not key.startswith("tanhmax_") or key in known})
    converted._attn_implementation = _implementations(config)
    return converted


def _implementations(config: PreTrainedConfig) -> str | dict[str, object] | None:
    """The attention implementation of a config; with sub-configs a dictionary, as Transformers takes it, since each may have its own."""
    own = getattr(config, "_attn_implementation", None)
    own = "sdpa" if is_own_kernel(own) else own
    parts = {key: getattr(config, key, None) for key in getattr(config, "sub_configs", {})}
    return {"": own} | {key: _implementations(part) for key, part in parts.items() if part is not None} if parts else own


def _named(model: PreTrainedModel, name: str) -> PreTrainedModel:
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and isinstance(module.config, TanhMaxFields):
            vars(module.config).pop("model_type", None)
    model.name_or_path = model.config.name_or_path = name
    return model


def _with_weights_of(
    source: PreTrainedModel, target: type[PreTrainedModel], config: PreTrainedConfig, weights: dict[str, Tensor] | None = None
) -> PreTrainedModel:
    if getattr(source, "hf_quantizer", None) is not None:
        raise ValueError(
            f"this {type(source).__name__} is quantised, and its weights cannot be shared; pass its name instead, with its "
            "quantization_config"
        )
    if any(value.is_meta for value in source.state_dict().values()):
        raise ValueError(
            f"some weights of this {type(source).__name__} are not in memory, but offloaded or not there yet; pass its name "
            "instead, with the same device_map and offload_folder"
        )
    # Not what a class makes of `from_pretrained`: it reads files beside the weights, of which a live model has none. It returns a report
    # beside the model, and takes what its own `__init__` does.
    loader: Any = vars(PreTrainedModel)["from_pretrained"].__func__
    made, report = loader(
        target,
        None,
        config=config,
        state_dict=source.state_dict() if weights is None else weights,
        dtype=source.dtype,
        output_loading_info=True,
        **_construction(source),
    )
    missing = [key for key in report["missing_keys"] if not key.endswith(SCORE_BIAS)]
    if missing or report["unexpected_keys"] or report["mismatched_keys"]:
        raise ValueError(
            f"{type(source).__name__} and {target.__name__} differ in their weights: {some([*missing, *report['unexpected_keys']])}"
        )
    parameters = dict(made.named_parameters())
    for name, parameter in source.named_parameters():
        if name in parameters:
            parameters[name].requires_grad_(parameter.requires_grad)
    for name, value in vars(source).items():
        if name.endswith("_config") and value is not None:  # of generation, and of what else the class reads from a file
            setattr(made, name, value)
    return made.to(source.device).train(source.training)


def _construction(source: PreTrainedModel) -> dict[str, bool]:
    """The arguments beside the config that the backbones are built with, read off the model."""
    accepted = inspect.signature(type(source).__init__).parameters
    found = {
        "add_pooling_layer": getattr(source, "pooler", None) is not None,
        "use_mask_token": getattr(getattr(source, "embeddings", None), "mask_token", None) is not None,
    }
    return {name: value for name, value in found.items() if name in accepted}
