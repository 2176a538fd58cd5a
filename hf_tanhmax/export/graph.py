"""How many nodes an exported graph has, and how many of them are the attention of its runtime."""

from collections import Counter
from typing import Any

# What runtimes call softmax attention; an ExecuTorch program hides what XNNPACK computes behind delegates.
ATTENTION = {
    "onnx": ("Attention", "MultiHeadAttention", "GroupQueryAttention"),
    "openvino": ("ScaledDotProductAttention",),
    "torch": ("scaled_dot_product_attention",),
    "executorch": (),
}


def operators(program: Any, name: str) -> Counter[str]:
    """How often each operator is in a program, as the exporter of a format returned it."""
    if name == "onnx":
        return Counter(node.op_type for node in program.graph)
    if name == "openvino":
        return Counter(
            node.get_type_name() for node in program.get_ops() if node.get_type_name() not in ("Constant", "Parameter", "Result")
        )
    graph = program.graph if name == "torch" else program.exported_program().graph
    return Counter(_name_of(node.target) for node in graph.nodes if node.op == "call_function")


def attention_nodes(counted: Counter[str], name: str) -> int:
    """How many of them are the attention of the runtime."""
    return sum(counted[each] for each in ATTENTION[name])


def _name_of(target: object) -> str:
    named = getattr(target, "_opname", None) or getattr(target, "__name__", str(target))
    return str(named).split(".")[0]
