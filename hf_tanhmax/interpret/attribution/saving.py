"""Explanations as files: one safetensors file, whose metadata hold what is no tensor as JSON. Nothing in it is run when it is read."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .explanation import Explanation

KIND = "hf_tanhmax.explanation"
TENSORS = ("weights", "orientation", "one_signed", "contributions")


def save_explanation(explanation: Explanation, path: str | Path) -> None:
    """Write an explanation, with its picture as 8-bit pixels.

    Args:
        explanation: what to write.
        path: of the file; its folder must exist.
    """
    tensors = {name: getattr(explanation, name).contiguous() for name in TENSORS}
    tensors |= {f"scores.{name}": scores.contiguous() for name, scores in explanation.scores.items()}
    if explanation.image is not None:
        picture = explanation.image
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        tensors["image"] = pixels.reshape(picture.height, picture.width, -1)
    plain = {field.name: getattr(explanation, field.name) for field in fields(explanation)}
    for name in (*TENSORS, "scores", "image"):
        del plain[name]
    save_file(tensors, str(path), metadata={"kind": KIND, "fields": json.dumps(plain), "scores": json.dumps(list(explanation.scores))})


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
    plain: dict[str, Any] = {name: _tuples(value) for name, value in json.loads(metadata["fields"]).items()}
    scores = {name: tensors[f"scores.{name}"] for name in json.loads(metadata["scores"])}
    return Explanation(**plain, **{name: tensors[name] for name in TENSORS}, scores=scores, image=_picture(tensors.get("image")))


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _picture(pixels: Any) -> Any:
    if pixels is None:
        return None
    from PIL import Image

    return Image.fromarray(pixels.numpy())
