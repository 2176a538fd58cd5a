"""The model of a run: from scratch, from a softmax checkpoint or from a TanhMax one, with the attention that the recipe says."""

from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, BertConfig, LlamaConfig, PreTrainedConfig, PreTrainedModel, ViTConfig

from ..conversion.calibration.plan import Plan
from ..conversion.convert import convert, convert_uncalibrated, refuse_partial
from ..errors import RecipeError, one_line
from ..integration.patching import set_polarity
from ..models.architectures import config_of
from ..models.family import TanhMaxFields
from ..settings import TanhMaxSettings
from .configuration.schema import Config
from .data.rows import Splits
from .progress import without_loading_report
from .tasks import Task
from .tasks.task import Processor

UPSTREAM = {"bert": BertConfig, "vit": ViTConfig, "llama": LlamaConfig}
DROPOUTS = {
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "vit": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "llama": ("attention_dropout",),
}
SETTINGS = ("polarity", "layers", "heads", "score_bias", "shift")


def tanhmax_settings(config: Config) -> TanhMaxSettings | None:
    """What the recipe asks of TanhMax when training begins; None for softmax.

    Raises:
        RecipeError: layers or heads that are not lists of different indices.
    """
    if config.attention == "softmax":
        return None
    polarity = config.polarity if config.polarity_schedule is None else config.polarity_start
    chosen = {key: getattr(config, key) for key in SETTINGS} | {"polarity": polarity}
    try:
        return TanhMaxSettings(**chosen)
    except (TypeError, ValueError) as error:
        raise RecipeError(str(error)) from error


def checkpoint_config(task: Task) -> PreTrainedConfig | None:
    """The config of the checkpoint to start from, checked against the recipe; None from scratch.

    Raises:
        RecipeError: no such checkpoint, one of another family, a TanhMax one for a softmax recipe or with settings of another kind, or one
            that the task's rows do not fit.
    """
    config = task.config
    settings, name = tanhmax_settings(config), config.model_name_or_path
    if name is None:
        return None
    if (name.startswith(("/", ".", "~")) or name.count("/") > 1) and not Path(name).is_dir():
        raise RecipeError(f"model_name_or_path: there is no folder {name}")
    try:
        found = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise RecipeError(f"model_name_or_path: cannot read the config of {name!r}: {one_line(error, 300)}") from error
    family = type(found).model_type.removeprefix("tanhmax_")
    if family != config.family:
        other = f"; recipes/{family}/ has those for it" if family in UPSTREAM else ""
        raise RecipeError(f"{name} is a checkpoint of model type {family!r}, but {config.task} is a recipe for {config.family!r}{other}")
    task.check_checkpoint(name, found)
    if isinstance(found, TanhMaxFields):
        if config.calibrate:
            raise RecipeError(
                f"{name} is a TanhMax checkpoint already, so there is nothing to calibrate: set calibrate to null, or start from the "
                "softmax checkpoint that it was made from"
            )
        _check_tanhmax_checkpoint(name, found.tanhmax_settings, settings)
    return found


def build_model(task: Task, checkpoint: PreTrainedConfig | None, splits: Splits, processor: Processor) -> PreTrainedModel:
    """The model, in float32, with the task's head.

    Raises:
        RecipeError: a checkpoint that cannot be loaded, or that TanhMax does not know.
    """
    config, settings = task.config, tanhmax_settings(task.config)
    if checkpoint is None:
        model = _from_scratch(task, settings, splits, processor)
    else:
        try:
            with without_loading_report():
                model = _from_checkpoint(task, settings, checkpoint, splits)
        except (OSError, ValueError, RuntimeError) as error:
            raise RecipeError(f"cannot start from {config.model_name_or_path!r}: {one_line(error, 400)}") from error
    if isinstance(model.config, TanhMaxFields) != (settings is not None):
        raise RuntimeError(f"attention: {config.attention} was asked for, but the model is {type(model).__name__}")
    task.adapt(model)
    return model


def freeze(model: PreTrainedModel, count: int) -> None:
    """Keep the weights of the first layers as they are, and whatever comes before them.

    Args:
        model: whose parameters stand in the order in which they are used: embeddings, layers, and what follows.
        count: of layers; 0 changes nothing.

    Raises:
        RecipeError: no layer would be left to train.
    """
    if not count:
        return
    depth = model.config.num_hidden_layers
    if count >= depth:
        raise RecipeError(f"freeze_layers is {count}, but the model has {depth} layers, of which at least one must be trained")
    layers = next(part for part in model.base_model.modules() if isinstance(part, nn.ModuleList) and len(part) == depth)
    first = next(layers[count].parameters())
    for parameter in takewhile(lambda each: each is not first, model.base_model.parameters()):
        parameter.requires_grad = False


def _from_scratch(task: Task, settings: TanhMaxSettings | None, splits: Splits, processor: Processor) -> PreTrainedModel:
    family, fields = task.config.family, task.sizes(processor, splits) | task.head(splits)
    try:
        if settings is None:
            return task.auto_class.from_config(UPSTREAM[family](**fields))
        chosen = {f"tanhmax_{name}": getattr(settings, name) for name in SETTINGS}
        return task.auto_class.from_config(config_of(family)(**fields, **chosen))
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _from_checkpoint(task: Task, settings: TanhMaxSettings | None, checkpoint: PreTrainedConfig, splits: Splits) -> PreTrainedModel:
    config = task.config
    name = str(config.model_name_or_path)
    arguments: dict[str, Any] = {"dtype": torch.float32, **task.head(splits)}
    if config.dropout is not None:
        arguments |= dict.fromkeys(DROPOUTS[config.family], config.dropout)
    if settings is None:
        return _loaded(task, name, arguments)
    if config.calibrate:
        plan = Plan(settings.polarity, settings.layers, settings.heads, settings.score_bias, settings.shift)
        return convert_uncalibrated(name, task.auto_class, plan, **arguments)
    if not isinstance(checkpoint, TanhMaxFields):
        chosen = {key: getattr(settings, key) for key in SETTINGS}
        return convert(name, task.auto_class, **chosen, **arguments)
    model = _loaded(task, name, arguments)
    if settings.polarity != "learned":
        set_polarity(model, settings.polarity)
    return model


def _loaded(task: Task, name: str, arguments: dict[str, Any]) -> PreTrainedModel:
    """The model of a checkpoint as it is, which may lack the task's head and nothing else."""
    model, report = task.auto_class.from_pretrained(name, output_loading_info=True, **arguments)
    refuse_partial(name, model, report)
    return model


def _check_tanhmax_checkpoint(name: str, have: TanhMaxSettings, want: TanhMaxSettings | None) -> None:
    if want is None:
        raise RecipeError(
            f"{name} is a TanhMax checkpoint, but the recipe says attention: softmax; start from a softmax checkpoint, or make one with "
            "hf_tanhmax.to_softmax"
        )
    if have.learned != want.learned:
        kinds = {True: "learned", False: "a number"}
        raise RecipeError(f"the polarity of {name} is {kinds[have.learned]}, but that of the recipe is {kinds[want.learned]}")
    if have.shift != want.shift:
        raise RecipeError(f"the shift of {name} is {have.shift}, but that of the recipe is {want.shift}")
    for key in ("layers", "heads"):
        if getattr(have, key) != getattr(want, key):
            raise RecipeError(f"{key} of {name} are {getattr(have, key)}, but those of the recipe are {getattr(want, key)}")
