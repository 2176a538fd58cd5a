"""Names of models that exist in memory only.

Libraries rebuild a model from its name: TRL its reference model, PEFT the base of an adapter, pipelines a tokenizer. What is in memory only
they would lose, and compute softmax. So the name of such a model is a sentence: it is no folder and no repository, which Hugging Face's
libraries find out without asking the network, and their error quotes it.
"""

from collections.abc import Iterator
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

REBUILT = "whatever is made from its name: ref_model=copy.deepcopy(model), a tokenizer"
CONVERTED = f", in memory only: save it and load that, or pass {REBUILT}"
PATCHED = f", patched to TanhMax in memory only: save hf_tanhmax.convert(model) and load that, or pass {REBUILT}"


def converted_name(origin: str, attention: str = "TanhMax") -> str:
    """The name of a model that holds the weights of another one, whose own name may be such a sentence."""
    origin = origin.removesuffix(PATCHED)
    if origin.endswith(CONVERTED):
        origin = origin.removesuffix(CONVERTED).partition(" of ")[2]
    return f"{attention} of {origin}{CONVERTED}"


def short_name(name: str) -> str:
    """A name as titles show it: without the sentence, and of a folder its last part alone."""
    name, made = name.removesuffix(PATCHED), ""
    if name.endswith(CONVERTED):
        made, _, name = name.removesuffix(CONVERTED).partition(" of ")
    shown = Path(name).name if Path(name).is_dir() else name
    return f"{made} of {shown}" if made else shown


def rename_patched(model: nn.Module, *, patched: bool) -> None:
    """Let the names of a model, of models inside it and of their adapters say that it is patched, or say what they said before."""
    for owner, attribute in _named_by(model):
        name = getattr(owner, attribute)
        if name:
            setattr(owner, attribute, str(name).removesuffix(PATCHED) + (PATCHED if patched else ""))


def _named_by(model: nn.Module) -> Iterator[tuple[object, str]]:
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            yield module, "name_or_path"
            yield module.config, "name_or_path"
        for adapter in getattr(module, "peft_config", {}).values():
            yield adapter, "base_model_name_or_path"
