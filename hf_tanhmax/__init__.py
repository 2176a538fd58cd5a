"""TanhMax attention for Hugging Face Transformers: attention weights with a sign.

Importing this package registers the attention functions and the model types with Transformers; it loads no kernel and starts no CUDA, and
what computes and the model classes are imported when they are asked for, by whomever (`models.registered`).
In the program `hf-tanhmax` alone nothing happens yet: it checks its arguments first, and registers before a command that needs it.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .models import named

__version__ = "0.1.0"

__all__ = [
    "PolarityCallback",
    "TanhMaxSettings",
    "convert",
    "restore",
    "set_polarity",
    "tanhmax",
    "tanhmax_attention",
    "tanhmax_on",
    "to_softmax",
    "use_tanhmax",
    "why_not",
]
__all__ += named.__all__

# Where the public names are, but for the TanhMax classes.
_HOMES = {
    "attention.api": ("tanhmax_attention", "why_not"),
    "conversion.convert": ("convert", "to_softmax"),
    "functional": ("tanhmax",),
    "integration.patching": ("restore", "set_polarity", "tanhmax_on", "use_tanhmax"),
    "settings": ("TanhMaxSettings",),
    "training.annealing": ("PolarityCallback",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def _is_the_program() -> bool:
    """Whether this process is `hf-tanhmax` or `python -m hf_tanhmax.cli`, told by how it was started: `sys.argv` is not complete yet.

    A script or a folder of a user may have that name too, so the program is looked into.
    """
    program = "".join(sys.orig_argv[-len(sys.argv) :][:1])
    if program == f"{__name__}.cli" or Path(program).name == "hf-tanhmax.exe":
        return True
    return Path(program).name == "hf-tanhmax" and Path(program).is_file() and f"{__name__}.cli".encode() in Path(program).read_bytes()


if not _is_the_program():
    from .models.registered import register as _register

    _register()

if TYPE_CHECKING:
    from .attention.api import tanhmax_attention, why_not
    from .conversion.convert import convert, to_softmax
    from .functional import tanhmax
    from .integration.patching import restore, set_polarity, tanhmax_on, use_tanhmax
    from .models.named import (
        TanhMaxBertConfig,
        TanhMaxBertForMaskedLM,
        TanhMaxBertForMultipleChoice,
        TanhMaxBertForNextSentencePrediction,
        TanhMaxBertForPreTraining,
        TanhMaxBertForQuestionAnswering,
        TanhMaxBertForSequenceClassification,
        TanhMaxBertForTokenClassification,
        TanhMaxBertLMHeadModel,
        TanhMaxBertModel,
        TanhMaxGemma2Config,
        TanhMaxGemma2ForCausalLM,
        TanhMaxGemma2ForSequenceClassification,
        TanhMaxGemma2ForTokenClassification,
        TanhMaxGemma2Model,
        TanhMaxGemma3Config,
        TanhMaxGemma3ForCausalLM,
        TanhMaxGemma3ForConditionalGeneration,
        TanhMaxGemma3ForSequenceClassification,
        TanhMaxGemma3Model,
        TanhMaxGemma3TextConfig,
        TanhMaxGemma3TextForSequenceClassification,
        TanhMaxGemma3TextModel,
        TanhMaxGemmaConfig,
        TanhMaxGemmaForCausalLM,
        TanhMaxGemmaForSequenceClassification,
        TanhMaxGemmaForTokenClassification,
        TanhMaxGemmaModel,
        TanhMaxGraniteConfig,
        TanhMaxGraniteForCausalLM,
        TanhMaxGraniteModel,
        TanhMaxLlamaConfig,
        TanhMaxLlamaForCausalLM,
        TanhMaxLlamaForQuestionAnswering,
        TanhMaxLlamaForSequenceClassification,
        TanhMaxLlamaForTokenClassification,
        TanhMaxLlamaModel,
        TanhMaxMistralConfig,
        TanhMaxMistralForCausalLM,
        TanhMaxMistralForQuestionAnswering,
        TanhMaxMistralForSequenceClassification,
        TanhMaxMistralForTokenClassification,
        TanhMaxMistralModel,
        TanhMaxOlmoConfig,
        TanhMaxOlmoForCausalLM,
        TanhMaxOlmoForSequenceClassification,
        TanhMaxOlmoModel,
        TanhMaxPhi3Config,
        TanhMaxPhi3ForCausalLM,
        TanhMaxPhi3ForSequenceClassification,
        TanhMaxPhi3ForTokenClassification,
        TanhMaxPhi3Model,
        TanhMaxQwen2Config,
        TanhMaxQwen2ForCausalLM,
        TanhMaxQwen2ForQuestionAnswering,
        TanhMaxQwen2ForSequenceClassification,
        TanhMaxQwen2ForTokenClassification,
        TanhMaxQwen2Model,
        TanhMaxQwen3Config,
        TanhMaxQwen3ForCausalLM,
        TanhMaxQwen3ForQuestionAnswering,
        TanhMaxQwen3ForSequenceClassification,
        TanhMaxQwen3ForTokenClassification,
        TanhMaxQwen3Model,
        TanhMaxSmolLM3Config,
        TanhMaxSmolLM3ForCausalLM,
        TanhMaxSmolLM3ForQuestionAnswering,
        TanhMaxSmolLM3ForSequenceClassification,
        TanhMaxSmolLM3ForTokenClassification,
        TanhMaxSmolLM3Model,
        TanhMaxStarcoder2Config,
        TanhMaxStarcoder2ForCausalLM,
        TanhMaxStarcoder2ForSequenceClassification,
        TanhMaxStarcoder2ForTokenClassification,
        TanhMaxStarcoder2Model,
        TanhMaxViTConfig,
        TanhMaxViTForImageClassification,
        TanhMaxViTForMaskedImageModeling,
        TanhMaxViTModel,
    )
    from .settings import TanhMaxSettings
    from .training.annealing import PolarityCallback
else:

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

    def __getattr__(name: str) -> object:
        """A public name, or a folder or module of the package, imported when it is asked for."""
        if name in _HOME_OF:
            found = globals()[name] = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
            return found
        if name.startswith("TanhMax"):
            return import_module(".models.architectures", __name__).class_named(name)
        if name.isidentifier() and not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
            return import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
