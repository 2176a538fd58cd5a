"""An explanation of one output: the signed weights of every head and scores of every position; saving and loading it.

The file is safetensors: the tensors, and as JSON in its metadata everything else. Nothing in it is run when it is read.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .conservation import Conservation
from .orientation import oriented

if TYPE_CHECKING:
    from PIL.Image import Image

KIND = "hf_tanhmax.explanation"
TENSORS = ("weights", "orientation", "one_signed", "contributions")
TWIN = "twin."  # before the names of what is the twin's


@dataclass(frozen=True)
class Explanation:
    """Signed attention of one input, and what it does to one logit.

    Shapes: L layers, H heads, Q queries and K keys (positions without padding), all float32 on the CPU.

    Attributes:
        family: the model type of Transformers, such as "bert".
        tokens: K readable tokens, or for images "row, column" of each patch and "[CLS]" or a number for each other position.
        words: per position, the index of its word in `word_texts`, None for special tokens.
        word_texts: the words that tokens are merged to; for images the patches.
        target: index of the class or vocabulary entry that is explained.
        target_name: its name in the model's config or tokenizer.
        logit: the model's output for the target, before softmax.
        probability: the same after softmax over all targets.
        position: the query position whose output the logit is read from; None where the head pools all positions or a decoder writes.
        layers: indices of the L layers in the model.
        signed: per layer, whether it computes TanhMax (False: softmax).
        weights: raw attention weights, [L, H, Q, K].
        orientation: 1.0 or -1.0 per head, [L, H]: the sign by which a positive oriented weight speaks for the target.
        one_signed: heads whose raw weights have (nearly) one sign, [L, H] bool: orientation says little there.
        contributions: w_ij <v_j, d logit / d o_i>, [L, H, Q, K], in logits to first order.
        scores: by method, one score per position, [K]; positive speaks for the target ("weights" are not oriented, and "gradient" is a
            norm, >= 0; "value_zeroing" and "alti" are shares that add up to 1). Those of `METHODS` that were asked for.
        image: the image (PIL, RGB), for images.
        grid: rows and columns of patches, for images.
        model_name: the model's name, for titles.
        notes: sentences for the reader, such as that the model computes softmax.
        unknown: positions of tokens that stand for words the tokenizer does not know.
        conservation: by method, what its scores add up to and should; of methods whose scores have a meaningful sum.
        cut: how many tokens of the text were cut away, so that the model has not read them.
        padding: positions of padding that the input does not mask.
        twin: the same input and target in a twin of the model, such as the softmax model that it was converted from.
    """

    family: str
    tokens: tuple[str, ...]
    words: tuple[int | None, ...]
    word_texts: tuple[str, ...]
    target: int
    target_name: str
    logit: float
    probability: float
    position: int | None
    layers: tuple[int, ...]
    signed: tuple[bool, ...]
    weights: Tensor
    orientation: Tensor
    one_signed: Tensor
    contributions: Tensor
    scores: dict[str, Tensor]
    image: "Image | None" = None
    grid: tuple[int, int] | None = None
    model_name: str = ""
    notes: tuple[str, ...] = ()
    unknown: tuple[int, ...] = ()
    conservation: dict[str, Conservation] = field(default_factory=dict)
    cut: int = 0
    padding: tuple[int, ...] = ()
    twin: "Explanation | None" = None

    @property
    def knows_no_word(self) -> bool:
        """Whether the model could read nothing of the text: every token that is not special stands for something unknown."""
        content = [position for position, word in enumerate(self.words) if word is not None]
        return bool(content) and set(content) <= set(self.unknown)

    @property
    def oriented(self) -> Tensor:
        """Weights times the orientation of their head, [L, H, Q, K]."""
        return oriented(self.weights, self.orientation)

    def check_comparable(self, twin: "Explanation") -> None:
        """Refuse a twin that cannot stand beside it.

        Raises:
            ValueError: other layers, heads, positions or names of the target.
        """
        shapes = [tuple(each.weights.shape) for each in (self, twin)]
        if shapes[0] != shapes[1]:
            ours, theirs = (f"{layers} layers of {heads} heads over {keys} positions" for layers, heads, _, keys in shapes)
            raise ValueError(f"the twin has {theirs} and the model {ours}; give a twin of the same shape")
        if self.target_name != twin.target_name:
            raise ValueError(
                f"target {self.target} is {twin.target_name!r} in the twin and {self.target_name!r} in the model; give a twin of the same "
                "classes"
            )

    def by_word(self, name: str) -> Tensor:
        """The scores of one method, summed over the positions of each word, [words]; special tokens are left out.

        Raises:
            ValueError: there are no scores of that name.
        """
        if name not in self.scores:
            raise ValueError(f'there are no scores named "{name}"; this explanation has {", ".join(self.scores)}')
        sums = torch.zeros(len(self.word_texts), dtype=self.scores[name].dtype)
        for score, word in zip(self.scores[name], self.words, strict=True):
            if word is not None:
                sums[word] += score
        return sums


def save_explanation(explanation: Explanation, path: str | Path) -> None:
    """Write an explanation, its image as 8-bit pixels.

    Args:
        explanation: what to write.
        path: of the file; its folder must exist.
    """
    tensors, metadata = _to_file(explanation)
    if explanation.twin is not None:
        twin_tensors, twin_metadata = _to_file(explanation.twin)
        tensors |= {TWIN + name: tensor for name, tensor in twin_tensors.items()}
        metadata |= {TWIN + name: text for name, text in twin_metadata.items()}
    save_file(tensors, str(path), metadata={"kind": KIND, **metadata})


def load_explanation(path: str | Path) -> Explanation:
    """Read an explanation that `save_explanation` wrote.

    Args:
        path: of the file.

    Raises:
        ValueError: the file holds something else.
        FileNotFoundError: there is no file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path} to read an explanation from")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, so it holds no explanation: {error}") from error
    if metadata.get("kind") != KIND:
        raise ValueError(f"{path} holds no explanation; save_explanation writes them")
    twin = _from_file(tensors, metadata, TWIN) if f"{TWIN}fields" in metadata else None
    return _from_file(tensors, metadata, "", twin)


def _to_file(explanation: Explanation) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and texts of an explanation, without its twin."""
    tensors = {name: getattr(explanation, name).contiguous() for name in TENSORS}
    tensors |= {f"scores.{name}": scores.contiguous() for name, scores in explanation.scores.items()}
    image = explanation.image
    if image is not None:
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        tensors["image"] = pixels.reshape(image.height, image.width, -1)
    elsewhere = (*TENSORS, "scores", "image", "twin", "conservation")
    values = {each.name: getattr(explanation, each.name) for each in fields(explanation) if each.name not in elsewhere}
    values["conservation"] = {method: asdict(each) for method, each in explanation.conservation.items()}
    return tensors, {"fields": json.dumps(values), "scores": json.dumps(list(explanation.scores))}


def _from_file(tensors: dict[str, Tensor], metadata: dict[str, str], prefix: str, twin: Explanation | None = None) -> Explanation:
    values = json.loads(metadata[f"{prefix}fields"])
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    values["conservation"] = {method: Conservation(**each) for method, each in values.get("conservation", {}).items()}
    scores = {name: tensors[f"{prefix}scores.{name}"] for name in json.loads(metadata[f"{prefix}scores"])}
    image = _image(tensors.get(f"{prefix}image"))
    shown: dict[str, Any] = {name: tensors[prefix + name] for name in TENSORS}
    return Explanation(**values, **shown, scores=scores, image=image, twin=twin)


def _image(pixels: Tensor | None) -> "Image | None":
    if pixels is None:
        return None
    from PIL import Image

    return Image.fromarray(pixels.numpy())
