"""A checkpoint as explanations need it: the class that its config names, and its tokenizer or image processor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from ...checkpoint import ADAPTER_CONFIG, PIPELINES

# How the name of a class with a head ends, and the Auto class that finds it.
ENDINGS = {auto.removeprefix("AutoModel"): auto for auto in PIPELINES if auto != "AutoModel"} | {"LMHeadModel": "AutoModelForCausalLM"}


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
    where: dict[str, Any] = {"revision": revision} if revision else {}
    base, adapter = _base_of(source)
    config = AutoConfig.from_pretrained(base, **where)
    auto = getattr(transformers, _auto_class(config))
    model = auto.from_pretrained(base, config=config, dtype=torch.float32, use_safetensors=True, **where)
    if adapter:
        import peft

        model = peft.PeftModel.from_pretrained(model, source).merge_and_unload()
    model = model.to(device).eval()
    if model.main_input_name == "pixel_values":
        return Loaded(model, None, AutoImageProcessor.from_pretrained(source, **where))
    return Loaded(model, AutoTokenizer.from_pretrained(source, **where), None)


def _base_of(source: str) -> tuple[str, bool]:
    """Where the model itself is, and whether the source is an adapter of it."""
    if not (Path(source) / ADAPTER_CONFIG).is_file():
        return source, False
    try:
        import peft
    except ImportError as error:
        raise ImportError(f"{source} is an adapter, which needs PEFT: pip install hf-tanhmax[recipes]") from error
    return str(peft.PeftConfig.from_pretrained(source).base_model_name_or_path), True


def _auto_class(config: Any) -> str:
    named = (config.architectures or [""])[0]
    found = next((auto for ending, auto in ENDINGS.items() if named.endswith(ending)), None)
    if found is None and not named.endswith("Model"):
        raise ValueError(f"its config names the class {named!r}, whose head is not known; there are {', '.join(ENDINGS)}")
    return found or "AutoModel"
