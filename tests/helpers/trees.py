"""A small tree of source that looks like a release of Transformers, to be altered."""

from hf_tanhmax.compatibility import dependencies
from hf_tanhmax.compatibility.sources import in_folder

MODEL = """
class TinyAttention(nn.Module):
    def forward(self, hidden_states, cache=None, **kwargs):
        if self.config._attn_implementation in ("eager", "sdpa"):
            pass
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager)
        return attention_interface(self, query, key, value, mask, dropout=0.0, scaling=1.0, is_causal=None, **kwargs)
"""
MASKS = "def sdpa_mask(): ...\n\n\ndef _inner(): ...\n"
PASSED_ON = "class TransformersKwargs(TypedDict):\n    position_ids: Tensor\n    input_ids: Tensor\n"


def release(folder, *, version="5.98.0", models=None, masks=MASKS, passed_on=PASSED_ON):
    """A release with one architecture for each of `models`, of which nothing that is leant on is there."""
    package = folder / "transformers"
    files = {
        "__init__.py": f'__version__ = "{version}"\n',
        "modeling_utils.py": "ALL_ATTENTION_FUNCTIONS = AttentionInterface()\n",
        "masking_utils.py": masks,
        "utils/generic.py": passed_on,
    }
    for name, text in (models or {"tiny": MODEL, "pool": "class Pool: ...\n"}).items():
        files[f"models/{name}/modeling_{name}.py"] = text
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return in_folder(folder, dependencies.PACKAGES)
