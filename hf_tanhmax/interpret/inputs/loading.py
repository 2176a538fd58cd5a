"""A checkpoint as explanations need it: the class that its config names, and its tokenizer or image processor."""

from dataclasses import dataclass
from typing import Any

import torch

from ...checkpoint import read_checkpoint
from ...processors import modality


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode and float32, and what makes its inputs.

    Attributes:
        model: with the head that its config names.
        tokenizer: for texts; None for a model of images.
        processor: image processor; None for a model of texts.
    """

    model: Any
    tokenizer: Any
    processor: Any

    @property
    def is_causal(self) -> bool:
        """Whether the model writes texts."""
        return bool(self.model.can_generate())


def load(source: str, *, revision: str | None = None, device: str = "cpu") -> Loaded:
    """Load a model from a folder or from the Hub; an adapter is merged into its base. No code that a checkpoint brings along is run.

    Args:
        source: a folder, or a name on the Hub.
        revision: of a name on the Hub: a commit, tag or branch.
        device: as torch names it.

    Raises:
        ValueError: its config names no class that is known here, or it is no checkpoint.
        OSError: there is no such checkpoint.
        ImportError: an adapter without PEFT, or an image processor that is not to be had in this environment.
    """
    checkpoint = read_checkpoint(source, revision=revision)
    model: Any = checkpoint.load(dtype=torch.float32)
    if checkpoint.adapter is not None:
        model = model.merge_and_unload()
    model = model.to(device).eval()
    kind = modality(model)
    if kind not in ("text", "image"):
        raise ValueError(f"it is a {type(model).__name__}, which reads {kind}; models that read texts or images are explained")
    processor = checkpoint.processor(kind)
    return Loaded(model, None, processor) if kind == "image" else Loaded(model, processor, None)
