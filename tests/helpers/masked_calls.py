"""Calls of the attention door that are exported, some of whose queries keep no key."""

import torch
from torch import nn
from torch.export import Dim

from hf_tanhmax import tanhmax_attention

# How far an exported program may be from what it was made of.
TOLERANCE = {"atol": 3e-5, "rtol": 1e-4}


class Attention(nn.Module):
    """One call of the door, with a mask."""

    def __init__(self, **arguments):
        super().__init__()
        self.arguments = arguments

    def forward(self, query, key, value, keep):
        return tanhmax_attention(query, key, value, keep=keep, **self.arguments)


def masked_call(batch, queries, keys):
    """Tensors of which the second query of the first entry keeps no key."""
    keep = torch.rand(batch, 1, queries, keys) > 0.4
    keep[0, 0, 1] = False
    return torch.randn(batch, 4, queries, 8), torch.randn(batch, 2, keys, 8), torch.randn(batch, 2, keys, 6), keep


def dims_of_masked_calls():
    batch, queries, keys = Dim("batch", max=64), Dim("queries", min=2, max=64), Dim("keys", min=2, max=64)
    return {0: batch, 2: queries}, {0: batch, 2: keys}, {0: batch, 2: keys}, {0: batch, 2: queries, 3: keys}


@torch.no_grad()
def assert_the_same(run, model, calls, **tolerance):
    for call in calls:
        torch.testing.assert_close(run(*call), model(*call), **(tolerance or TOLERANCE))


def operators(program):
    """The names of all operators in an exported program, those of nested graphs included."""
    modules = [module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    return {str(node.target) for module in modules for node in module.graph.nodes if node.op == "call_function"}
