"""Which arguments the models of a Transformers release pass to attention functions, and which of these TanhMax attention knows."""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..integration.registration import CARRIED, REFUSED
from .sources import Release, parameters_of

# What `registration` honours.
HANDLED = frozenset(
    {
        "module",
        "query",
        "key",
        "value",
        "attention_mask",
        "dropout",
        "scaling",
        "softcap",
        "is_causal",
        "position_bias",
        "output_attentions",
        "cache",
    }
)
# Numbers and flags that change nothing in what attention computes here: a window has come as a mask. A tensor by these names is refused.
IGNORED = frozenset(
    {
        "sliding_window",
        "deterministic",
        "use_cache",
        "output_hidden_states",
        "output_router_logits",
    }
)
# The keyword arguments that models pass on to every attention function, and those of continuous batching.
PASSED_ON = (
    ("utils/generic.py", "TransformersKwargs"),
    ("modeling_flash_attention_utils.py", "FlashAttentionKwargs"),
    ("generation/continuous_batching/input_outputs.py", "PagedAttentionArgs"),
)
CONSUMED = frozenset({"input_ids"})  # by the model, which passes it on to nobody


@dataclass(frozen=True)
class Interface:
    """The attention interface of one release.

    Attributes:
        architectures: those that ask it which function to call.
        keywords: how often each keyword argument is passed, over all modelling files; 0 where it is only passed on.
        parameters: what the methods take that pass it, and in how many of them.
        labels: names of attention functions that modelling code compares with, and the architectures that do.
        masks: the public functions of `masking_utils`.
    """

    architectures: frozenset[str]
    keywords: Counter[str]
    parameters: Counter[str]
    labels: dict[str, frozenset[str]]
    masks: frozenset[str]

    def unknown(self) -> list[str]:
        """Keyword arguments that TanhMax attention neither honours nor refuses nor ignores knowingly."""
        known = HANDLED | IGNORED | CARRIED | REFUSED.keys()
        return sorted(name for name in self.keywords if name not in known)


def meaning(keyword: str) -> str:
    """What TanhMax attention does with a keyword argument."""
    kinds = (("honoured", HANDLED), ("refused", REFUSED), ("carried", CARRIED), ("ignored", IGNORED))
    return next((kind for kind, names in kinds if keyword in names), "unknown")


def read_interface(release: Release) -> Interface:
    """Read all modelling files of a release; takes some seconds."""
    architectures: set[str] = set()
    keywords, parameters, labels = Counter(_passed_on(release)), Counter[str](), dict[str, set[str]]()
    for architecture, text in release.modelling():
        architectures.add(architecture)
        for method in _methods(ast.parse(text)):
            calls = 0
            for node in ast.walk(method):
                if isinstance(node, ast.Call) and _is_attention_function(node.func):
                    keywords.update(each.arg for each in node.keywords if each.arg is not None)
                    calls += 1
                elif isinstance(node, ast.Compare) and _is_label(node.left):
                    for label in _texts(node):
                        labels.setdefault(label, set()).add(architecture)
            if calls:
                parameters.update(parameters_of(method) - {"self"})
    tree = release.tree("transformers", "masking_utils.py")
    masks = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] if tree is not None else []
    return Interface(
        frozenset(architectures),
        keywords,
        parameters,
        {label: frozenset(found) for label, found in labels.items()},
        frozenset(name for name in masks if not name.startswith("_")),
    )


def _methods(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from (each for each in node.body if isinstance(each, ast.FunctionDef))


def _is_attention_function(function: ast.expr) -> bool:
    """A function got from the interface: by its usual name, or at the spot."""
    if isinstance(function, ast.Name):
        return function.id.endswith(("attention_interface", "attention_fn"))
    return isinstance(function, ast.Call | ast.Subscript) and "ALL_ATTENTION_FUNCTIONS" in ast.unparse(function)


def _is_label(value: ast.expr) -> bool:
    return isinstance(value, ast.Attribute) and value.attr == "_attn_implementation"


def _texts(node: ast.AST) -> set[str]:
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def _passed_on(release: Release) -> dict[str, int]:
    found: dict[str, int] = {}
    for path, name in PASSED_ON:
        tree = release.tree("transformers", path)
        for node in [] if tree is None else tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                fields = [each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
                found |= dict.fromkeys((each for each in fields if each not in CONSUMED), 0)
    return found
