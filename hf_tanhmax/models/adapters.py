"""Tables of other libraries that are keyed by model type: the TanhMax types get the rows of their upstream families.

PEFT keeps the default target modules of each of its methods so, and Liger the function that puts its kernels into a model; modules have the
same names, so what fits the upstream family fits. Neither has a function that adds a row, or a moment at which it calls plugins, and
importing them here would make `import hf_tanhmax` heavy. But both read the model type right before they look it up, so that is when the
tables are filled in: `ModelType` is an attribute that does it.
"""

import sys
from collections.abc import Iterator
from typing import Any

# ViT's attention projections are named as LLaMA's are; the rest of it is not. PEFT's own rows for `vit` are the names of older checkpoints.
ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})


class ModelType:
    """The model type of a config class, which fills the tables in when it is read off the class or a config."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, config_class: type | None = None) -> str:
        fill_tables()
        return self.name


def fill_tables() -> None:
    """Add the TanhMax model types to the tables of PEFT and Liger, if they are imported; a row that is there already stays."""
    for table in (*_peft_tables(), *_liger_tables()):
        for family in ("bert", "llama"):
            if family in table:
                table.setdefault(f"tanhmax_{family}", table[family])
    for table in _peft_tables():
        if ATTENTION.issuperset(table.get("llama", ["none"])):
            table.setdefault("tanhmax_vit", table["llama"])


def _peft_tables() -> Iterator[dict[str, list[str]]]:
    if "peft.utils.constants" in sys.modules:
        for name, table in vars(sys.modules["peft.utils.constants"]).items():
            if name.startswith("TRANSFORMERS_MODELS_TO_") and name.endswith("_MODULES_MAPPING"):
                yield table


def _liger_tables() -> Iterator[dict[str, Any]]:
    table = getattr(sys.modules.get("liger_kernel.transformers.monkey_patch"), "MODEL_TYPE_TO_APPLY_LIGER_FN", None)
    if table is not None:
        yield table
