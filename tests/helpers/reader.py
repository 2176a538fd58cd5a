"""A process that loads what was published and compares to the bit; with the argument `plain` in a world without hf_tanhmax."""

import importlib.abc
import json
import sys
from pathlib import Path

UNKNOWN_TOKEN = "hf_unknownUnknownUnknownUnknownUnknown00"


class Absent(importlib.abc.MetaPathFinder):
    """The package is not installed, whatever is on the path."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_tanhmax":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(place: Path, role: str) -> None:
    if role == "plain":
        sys.meta_path.insert(0, Absent())
    else:
        import hf_tanhmax  # noqa: F401
    plan = json.loads((place / "plan.json").read_text())
    loaded = {item["name"]: compare(place, item, role) for item in plan}
    (place / f"{role}.json").write_text(json.dumps({"loaded": loaded, "refused": refused(role)}))


def compare(place, item, role):
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file

    auto, is_adapter = item["auto"], item.get("adapter", False)
    loader = getattr(peft, auto.replace("Auto", "AutoPeft")) if is_adapter else getattr(transformers, auto)
    wanted = {"trust_remote_code": True} if role == "plain" else {}
    if item.get("pinned"):
        wanted["revision"] = item["revision"]
    model = loader.from_pretrained(item["repo"], **wanted).eval()
    own, expected = f"{item['name']}.", load_file(place / "expected.safetensors")
    inputs = {key.removeprefix(f"{own}inputs."): tensor for key, tensor in expected.items() if key.startswith(f"{own}inputs.")}
    with torch.no_grad():
        logits = model(**inputs).logits
    cls = type(model.get_base_model() if is_adapter else model)
    return {"same": torch.equal(logits, expected[f"{own}logits"]), "class": cls.__name__, "module": cls.__module__}


def refused(role):
    """What is said to those who may not see a repository, and to those who did not say that they trust its code."""
    from transformers import AutoConfig, AutoModel

    tries = {
        "anonymous": lambda: AutoConfig.from_pretrained("owner/bert-adapter-base", token=False),
        "unknown": lambda: AutoConfig.from_pretrained("owner/bert-adapter-base", token=UNKNOWN_TOKEN),
        "untrusting": lambda: AutoModel.from_pretrained("owner/bert"),
    }
    said = {}
    for name, attempt in tries.items():
        try:
            attempt()
        except (OSError, ValueError) as error:
            said[name] = str(error)
    return said


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
