"""Which modules compute softmax attention while a model runs, seen from PyTorch's calls: a yardstick for what is read from code.

Models are built on the meta device, from their default configurations, so that nothing is computed. Their attention interface is answered
by a function that computes no softmax. A softmax is followed through calls that only move or scale its elements; attention is a matrix
product of what comes out with another activation, or PyTorch's own attention.
"""

from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import MODEL_MAPPING, AttentionInterface

from hf_tanhmax.integration.registration import EAGER, FUSED, PAGED

PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum", "mm")
ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward", "_native_multi_head_attention")
KEEPING = ("to", "type", "type_as", "float", "half", "dropout", "view", "reshape", "transpose", "permute", "contiguous", "flatten", "clone")
KEEPING += ("masked_fill", "nan_to_num", "unsqueeze", "squeeze", "expand", "__getitem__", "unflatten", "repeat", "swapaxes", "detach")


class Probe(TorchFunctionMode):
    """Collects the classes of modules that compute softmax attention."""

    def __init__(self):
        super().__init__()
        self.attending, self.modules, self.weights = set(), [], {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        weights = [each for each in tensors if id(each) in self.weights]
        others = [each for each in tensors if id(each) not in self.weights and not isinstance(each, nn.Parameter)]
        if self.modules and (name in ATTENTION or (name in PRODUCTS and weights and others)):
            self.attending.add(type(self.modules[-1]))
        if isinstance(found, torch.Tensor) and (name == "softmax" or (name in KEEPING and weights)):
            self.weights[id(found)] = found  # and alive, so that no other tensor has its id
        return found


@contextmanager
def probing():
    """A probe that knows which module runs."""
    probe = Probe()
    handles = [
        hooks.register_module_forward_pre_hook(lambda module, args: probe.modules.append(module)),
        hooks.register_module_forward_hook(lambda module, args, output: probe.modules.pop() and None, always_call=True),
    ]
    try:
        with probe:
            yield probe
    finally:
        for handle in handles:
            handle.remove()


def no_attention(module, query, key, value, attention_mask=None, **kwargs):
    shape = (query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
    return query.new_zeros(shape), query.new_zeros((*query.shape[:3], key.shape[2]))


@contextmanager
def interface_without_attention():
    """What patched modules call computes nothing inside the block."""
    before = {name: AttentionInterface()[name] for name in (FUSED, EAGER, PAGED)}
    for name in before:
        AttentionInterface.register(name, no_attention)
    try:
        yield
    finally:
        for name, function in before.items():
            AttentionInterface.register(name, function)


def architectures():
    """The configuration class and the model class of every architecture that has a base model."""
    for config in MODEL_MAPPING:
        try:
            cls = MODEL_MAPPING[config]
        except ValueError:  # 5.24 names a class of Voxtral Realtime that it does not have
            continue
        yield config, cls[0] if isinstance(cls, tuple) else cls


def made(config_class, cls):
    """A model on the meta device, of its default configuration."""
    config = config_class()
    config._attn_implementation = "eager"
    with torch.device("meta"):
        return cls(config).eval()


def example(model):
    """Inputs on the meta device."""
    config, name = model.config, model.main_input_name
    if name == "input_ids":
        words = torch.zeros(1, 16, dtype=torch.int64, device="meta")
        return {"input_ids": words} | ({"decoder_input_ids": words} if getattr(config, "is_encoder_decoder", False) else {})
    if name == "pixel_values":
        size = getattr(config, "image_size", None) or 224
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return {"pixel_values": torch.zeros(1, getattr(config, "num_channels", 3), height, width, device="meta")}
    if name == "input_values":
        return {"input_values": torch.zeros(1, 16000, device="meta")}
    return {name: torch.zeros(1, getattr(config, "num_mel_bins", 80), 3000, device="meta")}
