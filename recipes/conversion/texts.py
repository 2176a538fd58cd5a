"""Kinds of text to calibrate on, to be read by a language model, and to be held out, cut into rows of tokens.

Three come from the folder of the data, two from what is installed: docstrings of packages, and modules of Python's standard library. The
three splits of a kind come from different documents, of docstrings from different packages.
"""

import ast
import csv
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_tanhmax.errors import RecipeError

SPLITS = ("train", "validation", "test")
DOCSTRINGS = {"train": ("scipy", "networkx"), "validation": ("sklearn",), "test": ("pandas",)}  # packages
LEAST_DOCSTRING = 600  # characters; shorter ones have little to predict
PLAYS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}  # shares of the file
NEWS_TRAINING = 0.85  # share of the training posts; the rest are for validation
MOST = 700_000  # characters of a split that are read
SEED = 0


def text_of(kind: str, split: str, data: Path) -> str:
    """The text of a split.

    Args:
        kind: `news`, `reviews`, `plays`, `docstrings` or `code`.
        split: one of `SPLITS`.
        data: folder with `20news/`, `sst2/` and `text/`, for the first three.

    Raises:
        RecipeError: no such kind, or what it comes from is not there.
    """
    makers = {"news": _news, "reviews": _reviews, "plays": _plays, "docstrings": _docstrings, "code": _code}
    if kind not in makers or split not in SPLITS:
        raise RecipeError(f"there is no {split} text of kind {kind!r}; kinds are {', '.join(makers)}, splits {', '.join(SPLITS)}")
    try:
        return makers[kind](split, data)[:MOST]
    except OSError as error:
        raise RecipeError(f"cannot read the {split} text of kind {kind!r}: {error}") from error


@dataclass
class Texts:
    """Rows of tokens, spread evenly over the splits.

    Attributes:
        data: as in `text_of`.
        tokenizer: of the model.
        length: tokens of a row.
    """

    data: Path
    tokenizer: PreTrainedTokenizerBase
    length: int

    def __post_init__(self) -> None:
        self._read: dict[tuple[str, str], Tensor] = {}

    def rows(self, kind: str, split: str, count: int, seed: int = 0) -> Tensor:
        """`[count, length]`: rows of one kind; another seed starts each a little later in the text.

        Raises:
            RecipeError: the split has fewer tokens, or what `text_of` raises.
        """
        if (kind, split) not in self._read:
            ids = self.tokenizer(text_of(kind, split, self.data), add_special_tokens=False)["input_ids"]
            self._read[kind, split] = torch.tensor(ids)
        tokens = self._read[kind, split]
        step = (len(tokens) - self.length) // count
        if step < self.length:
            raise RecipeError(f"the {split} text of kind {kind!r} has {len(tokens)} tokens, too few for {count} rows of {self.length}")
        shift = random.Random(seed).randrange(step - self.length + 1) if seed else 0
        return torch.stack([tokens[start : start + self.length] for start in range(shift, shift + count * step, step)])

    def mixed(self, kinds: list[str], split: str, count: int, seed: int = 0) -> Tensor:
        """`[count, length]`: as many rows of each kind, in turn."""
        if count % len(kinds):
            raise RecipeError(f"{count} rows cannot be shared evenly by {len(kinds)} kinds of text")
        return torch.stack([self.rows(kind, split, count // len(kinds), seed) for kind in kinds], 1).flatten(0, 1)


def _column(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def _news(split: str, data: Path) -> str:
    posts = _column(data / "20news" / ("test.csv" if split == "test" else "train.csv"))
    border = int(NEWS_TRAINING * len(posts))
    return "\n\n".join({"train": posts[:border], "validation": posts[border:], "test": posts}[split])


def _reviews(split: str, data: Path) -> str:
    return "\n".join(_column(data / "sst2" / {"train": "train.csv", "validation": "dev.csv", "test": "test.csv"}[split]))


def _plays(split: str, data: Path) -> str:
    text = (data / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    first, last = (int(share * len(text)) for share in PLAYS[split])
    return text[first:last]


def _docstrings(split: str, _: Path) -> str:
    found = list(dict.fromkeys(text for package in DOCSTRINGS[split] for text in _docstrings_of(package)))
    random.Random(SEED).shuffle(found)
    return "\n\n".join(found)


def _docstrings_of(package: str) -> Iterator[str]:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise RecipeError(f"the package {package} is not installed, whose docstrings are a kind of text")
    for path in sorted(Path(spec.origin).parent.rglob("*.py")):
        if "tests" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node) or ""
                if len(text) >= LEAST_DOCSTRING:
                    yield text


def _code(split: str, _: Path) -> str:
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    random.Random(SEED).shuffle(modules)
    return "\n\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in modules[SPLITS.index(split) :: len(SPLITS)])
