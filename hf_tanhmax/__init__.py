"""TanhMax attention for Hugging Face Transformers: attention weights with a sign.

Importing this package registers the attention functions and the model types with Transformers; it loads no kernel and starts no CUDA.
In the program `hf-tanhmax` alone nothing happens yet: it checks its arguments first, and registers before a command that needs it.
"""

import sys
from importlib import import_module
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

# The modules that `__getattr__` looks through, in this order.
_MODULES = (*("settings", "functional", "attention.api", "integration.patching", "conversion.convert", "training.annealing"),)


def _is_the_program() -> bool:
    """Whether this process is `hf-tanhmax` or `python -m hf_tanhmax.cli`, told by how it was started: `sys.argv` is not complete yet.

    A script or a folder of a user may have that name too, so the program is looked into.
    """
    program = "".join(sys.orig_argv[-len(sys.argv) :][:1])
    if program == f"{__name__}.cli" or Path(program).name == "hf-tanhmax.exe":
        return True
    return Path(program).name == "hf-tanhmax" and Path(program).is_file() and f"{__name__}.cli".encode() in Path(program).read_bytes()


if TYPE_CHECKING or not _is_the_program():
    from .attention.api import tanhmax_attention, why_not
    from .conversion.convert import convert, to_softmax
    from .functional import tanhmax
    from .integration import registration
    from .integration.patching import restore, set_polarity, tanhmax_on, use_tanhmax
    from .models import architectures
    from .settings import TanhMaxSettings

    registration.register_attention()
    architectures.register_types()

if TYPE_CHECKING:
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
    from .training.annealing import PolarityCallback
else:

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

    def __getattr__(name: str) -> object:
        """A public name that is not imported above: in the program any, and elsewhere PolarityCallback and the TanhMax classes.

        The Trainer that it belongs to imports PEFT and more, which not everybody needs; and a class is made when it is asked for.
        """
        for module in _MODULES if name in __all__ and name not in named.__all__ else ():
            found = vars(import_module(f".{module}", __name__))
            if name in found:
                return found[name]
        if name.startswith("TanhMax"):
            return import_module(".models.architectures", __name__).class_named(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
