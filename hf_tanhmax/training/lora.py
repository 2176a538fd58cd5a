"""LoRA by PEFT: adapters on a base model that is a TanhMax checkpoint of its own, so that a reload computes TanhMax.

An adapter holds no attention: whoever loads it loads its base first. So the base is written to `base/` in the run's folder, for TanhMax
with the polarity that training ends with, and the adapter names it.
"""

from pathlib import Path
from typing import Any

import peft
from transformers import PreTrainedModel

from ..checkpoint import BASE, read_checkpoint
from ..errors import RecipeError, one_line
from ..integration.patching import set_polarity
from .configuration.schema import Config
from .tasks import Task

# PEFT's defaults for `vit` are names that its modules no longer have; these are those of `tanhmax_vit`.
VIT_TARGETS = ("q_proj", "v_proj")


def with_adapters(model: PreTrainedModel, task: Task, folder: Path) -> Any:
    """The model with LoRA adapters, whose weights alone are trained beside those of a new head. Its base is in the folder already.

    Args:
        model: at the polarity with which training begins.
        task: of the recipe.
        folder: of the run.

    Raises:
        RecipeError: targets that the model does not have, or none that PEFT knows.
    """
    config: Config = task.config
    targets = config.lora_targets or (VIT_TARGETS if model.config.model_type == "vit" else None)
    model.name_or_path = str(folder / BASE)
    chosen = peft.LoraConfig(
        r=config.lora_rank or 1,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=None if targets is None else list(targets),
        modules_to_save=list(task.new_modules) or None,
        task_type=task.peft_task,
    )
    try:
        return peft.get_peft_model(model, chosen)
    except ValueError as error:
        raise RecipeError(f"LoRA cannot adapt {type(model).__name__}: {one_line(error, 300)}") from error


def save_base(model: PreTrainedModel, config: Config, folder: Path) -> None:
    """Write the base of an adapter, before adapters are put into it; a TanhMax one with the polarity that training ends with."""
    annealed = config.attention == "tanhmax" and config.polarity_schedule is not None
    if annealed and config.polarity != "learned":
        set_polarity(model, config.polarity)
    model.save_pretrained(folder / BASE)
    if annealed:
        set_polarity(model, config.polarity_start)


def load_trained(folder: Path, task: Task) -> Any:
    """The model of a run's folder, an adapter with its base, as anyone else would load it."""
    return read_checkpoint(folder).load(task.auto_class)
