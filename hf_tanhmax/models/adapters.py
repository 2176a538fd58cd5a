"""Default target modules of PEFT for the TanhMax model types: those of the upstream family, whose modules have the same names.

PEFT keeps a table for each of its methods, keyed by model type. It has no function that adds a row and no moment at which it calls
plugins, and importing it here would make `import hf_tanhmax` heavy. But it asks a model's config for its dictionary right before it looks
a table up, so that is when `TanhMaxFields.to_dict` fills the tables in.
"""

import sys
from collections.abc import Iterator

# ViT's attention projections are named as LLaMA's are; the rest of it is not. PEFT's own rows for `vit` are the names of older checkpoints.
ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})


def fill_tables() -> None:
    """Add the TanhMax model types to the tables of PEFT, if it is imported; a row that is there already stays."""
    for table in _tables():
        for family in ("bert", "llama"):
            if family in table:
                table.setdefault(f"tanhmax_{family}", table[family])
        if ATTENTION.issuperset(table.get("llama", ["none"])):
            table.setdefault("tanhmax_vit", table["llama"])


def _tables() -> Iterator[dict[str, list[str]]]:
    if "peft.utils.constants" in sys.modules:
        for name, table in vars(sys.modules["peft.utils.constants"]).items():
            if name.startswith("TRANSFORMERS_MODELS_TO_") and name.endswith("_MODULES_MAPPING"):
                yield table
