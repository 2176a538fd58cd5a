"""Explanations made by hand, of which every number is known."""

from dataclasses import replace

import torch
from PIL import Image

from hf_tanhmax.interpret.attribution.explanation import Explanation

TOKENS = ("[CLS]", "not", "fun", "##ny", "at", "$all_", "[SEP]")
WORDS = (None, 0, 1, 1, 2, 3, None)
WORD_TEXTS = ("not", "funny", "at", "$all_")


def made(*, tokens=TOKENS, words=WORDS, word_texts=WORD_TEXTS, layers=2, heads=3, seed=0, **changes):
    """An explanation with random weights that obey TanhMax's bounds; the last layer is softmax, and one head has one sign."""
    generator = torch.Generator().manual_seed(seed)
    length = len(tokens)
    raw = torch.randn(layers, heads, length, length, generator=generator)
    weights = raw.sinh() / raw.cosh().sum(-1, keepdim=True)
    weights[-1] = raw[-1].softmax(-1)
    weights[0, 1] = weights[0, 1].abs()
    signs = torch.tensor([1.0, -1.0])[torch.randint(0, 2, (layers, heads), generator=generator)]
    signs[-1] = 1.0
    one_signed = torch.zeros(layers, heads, dtype=torch.bool)
    one_signed[0, 1] = True
    one_signed[-1] = True
    contributions = weights * torch.randn(layers, heads, length, length, generator=generator)
    oriented = weights * signs[:, :, None, None]
    scores = {
        "weights": weights.mean((0, 1, 2)),
        "oriented": oriented.mean((0, 1, 2)),
        "contributions": contributions.sum((0, 1, 2)),
        "rollout": torch.randn(length, generator=generator),
        "integrated_gradients": torch.randn(length, generator=generator),
    }
    values = {
        "family": "bert",
        "tokens": tuple(tokens),
        "words": tuple(words),
        "word_texts": tuple(word_texts),
        "target": 1,
        "target_name": "positive",
        "logit": 2.25,
        "probability": 0.9375,
        "position": 0,
        "layers": tuple(range(layers)),
        "signed": (*[True] * (layers - 1), False),
        "weights": weights,
        "orientation": signs,
        "one_signed": one_signed,
        "contributions": contributions,
        "scores": scores,
        "model_name": "tiny/model",
    }
    return Explanation(**{**values, **changes})


def made_of_image(rows=2, columns=3, size=(60, 40), **changes):
    """The same of an image, whose patches are the words."""
    names = [f"{row}, {column}" for row in range(rows) for column in range(columns)]
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    known = {"image": picture, "grid": (rows, columns), "family": "vit", "target_name": "flower"}
    return made(tokens=("[CLS]", *names), words=(None, *range(len(names))), word_texts=tuple(names), **{**known, **changes})


def made_long(length=512, layers=12, heads=12):
    """As large as BERT-base is; heads differ by a factor, which takes less time to make."""
    tokens = tuple(f"w{index}" for index in range(length))
    small = made(tokens=tokens, words=tuple(range(length)), word_texts=tokens, layers=2, heads=2)
    factors = torch.linspace(0.5, 1, layers * heads).reshape(layers, heads, 1, 1)
    return replace(
        small,
        layers=tuple(range(layers)),
        signed=(True,) * layers,
        weights=(torch.rand(length, length) - 0.5) / length * factors,
        orientation=torch.ones(layers, heads),
        one_signed=torch.zeros(layers, heads, dtype=torch.bool),
        contributions=torch.randn(length, length) / length * factors,
    )
