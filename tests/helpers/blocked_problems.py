"""An attention call as the CPU's code takes it."""

import torch

from hf_tanhmax.attention.call import OperatorInputs
from hf_tanhmax.attention.cpu.problem import BlockedProblem
from hf_tanhmax.attention.mask import AttentionMask


def problem(query, key, value, polarity=1.0, mask=None, balanced=False, **options):
    mask = mask or AttentionMask(query.shape[2], key.shape[2])
    polarities = torch.full((query.shape[1],), polarity, dtype=query.dtype)
    tensors = {"query": query, "key": key, "value": value, "polarity": polarities if balanced else polarities.log()}
    masks = {name: getattr(mask, name) for name in ("keep", "segments", "causal", "offset", "window")}
    others = {"bias": None, "additive_mask": None, "seed": None, "scale": 1.0, "softcap": None, "dropout_p": 0.0}
    return BlockedProblem(OperatorInputs(**tensors, **masks, **others | options, signed=True, balanced=balanced, kernels=False))
