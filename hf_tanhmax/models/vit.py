"""ViT with TanhMax attention: model type `tanhmax_vit`, and a class for each of its heads."""

from huggingface_hub.dataclasses import strict
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from .family import TanhMaxFields, tanhmax_class


@strict
class TanhMaxViTConfig(TanhMaxFields, ViTConfig):
    """A `ViTConfig` with the TanhMax settings; see `TanhMaxFields` and `TanhMaxSettings` for what they mean."""

    model_type = "tanhmax_vit"


@tanhmax_class(TanhMaxViTConfig, "AutoModel")
class TanhMaxViTModel(ViTModel):
    """The backbone."""


@tanhmax_class(TanhMaxViTConfig, "AutoModelForMaskedImageModeling")
class TanhMaxViTForMaskedImageModeling(ViTForMaskedImageModeling):
    """Masked image modelling."""


@tanhmax_class(TanhMaxViTConfig, "AutoModelForImageClassification")
class TanhMaxViTForImageClassification(ViTForImageClassification):
    """Classification of images."""


def register_checkpoint_conversion() -> None:
    """Let ViT checkpoints, whose file names differ from the module names, load into and save from `TanhMaxViTModel`.

    Transformers keys this table by class name and leaves custom classes out, so without it every weight would be new.
    """
    conversion = get_checkpoint_conversion_mapping("ViTModel")
    if conversion is not None:
        register_checkpoint_conversion_mapping("TanhMaxViTModel", conversion, overwrite=True)
