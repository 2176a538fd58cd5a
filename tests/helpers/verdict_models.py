"""Tiny models of every kind with every map, and inputs for them."""

import torch

from recipes.verdict.models import build
from recipes.verdict.plan import IMAGES, Size, Task

WORDS = 13


def tiny(kind, **changes):
    values = {"length": 11, "image_size": 6, "patch_size": 2} | changes
    return Task("tiny", kind, Size(2, 16, 2, 48), 2, 3, **values)


def inputs_for(task, rows=3):
    generator = torch.Generator().manual_seed(7)
    if task.kind == IMAGES:
        return {"pixel_values": torch.randn(rows, 3, task.image_size, task.image_size, generator=generator)}
    ids = torch.randint(1, WORDS, (rows, task.length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def made(name, kind):
    """A model with large weights, so that scores are far from 0, and its task."""
    task = tiny(kind)
    model = build(task, name, WORDS if kind != IMAGES else 3, 3, dropout=0.0, seed=5).eval()
    with torch.no_grad():
        for name_of, parameter in model.named_parameters():
            if not name_of.endswith("score_bias"):
                parameter.mul_(4)
    return model, task
