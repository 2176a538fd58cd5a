"""An exported model as transformers.js wants it: the graph in a folder `onnx`, and a model type that it knows.

    FOLDER/config.json, tokenizer.json, tokenizer_config.json, onnx/model.onnx, onnx/model_quantized.onnx

Each graph is one file with its weights, as a browser fetches them. transformers.js chooses its class by the model type, refuses those that
it does not know, and computes nothing itself: attention is that of the graph. So the type is the one that was converted, and what says
TanhMax stays in the config beside it.
"""

import json
import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from ..checkpoint import CONFIG
from ..models.architectures import upstream_type


def lay_out_for_javascript(exported: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Copy what `export_model(format="onnx")` wrote of a model without a cache into a new folder for transformers.js.

    Args:
        exported: the folder, with `model.onnx` and, of `int8=True`, `model_quantized.onnx`.
        out: a new folder.

    Raises:
        ValueError: there is no `model.onnx` of a TanhMax model, as of one that generates, or the new folder is there already.
    """
    exported, out = Path(exported), Path(out)
    config = json.loads((exported / CONFIG).read_text(encoding="utf-8")) if (exported / CONFIG).exists() else {}
    plain = upstream_type(str(config.get("model_type")))
    if plain is None or not (exported / "model.onnx").exists():
        raise ValueError(
            f'{exported} holds no TanhMax model that was exported to ONNX as one graph: write it by export_model(..., format="onnx"), of a '
            "model that generates with with_past=False"
        )
    if out.exists():
        raise ValueError(f"{out} is there already; name a folder that is new")
    (out / "onnx").mkdir(parents=True)
    onnx: Any = import_module("onnx")
    for path in exported.glob("model*.onnx"):
        onnx.save(onnx.load(path), out / "onnx" / path.name)
    for path in exported.glob("*.json"):
        shutil.copy(path, out)
    (out / CONFIG).write_text(json.dumps(config | {"model_type": plain}, indent=2) + "\n", encoding="utf-8")
