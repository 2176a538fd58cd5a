"""An attention call as the CPU's code takes it."""

import torch

from hf_tanhmax.attention.call import OperatorInputs
from hf_tanhmax.attention.cpu.blocked import BlockedProblem
from hf_tanhmax.attention.mask import AttentionMask


def problem(query, key, value, polarity=1.0, mask=None, **options):
    mask = mask or AttentionMask(query.shape[2], key.shape[2])
    log_polarity = torch.full((query.shape[1],), polarity, dtype=query.dtype).log()
    tensors = {"query": query, "key": key, "value": value, "log_polarity": log_polarity}
    masks = {name: getattr(mask, name) for name in ("keep", "segments", "causal", "offset", "window")}
    others = {"bias": None, "additive_mask": None, "seed": None, "scale": 1.0, "softcap": None, "dropout_p": 0.0}
    return BlockedProblem(OperatorInputs(**tensors, **masks, **others | options, signed=True, kernels=False))
