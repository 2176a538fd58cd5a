"""Writes `hf_tanhmax/models/named.py` and `named.pyi`: the TanhMax classes that type checkers know.

python tests/helpers/named.py
"""

import subprocess
import sys
from pathlib import Path

import hf_tanhmax
from hf_tanhmax.models.architectures import config_of
from hf_tanhmax.models.family import HEADS

FOLDER = Path(hf_tanhmax.__file__).parent / "models"
FAMILIES = (
    *("bert", "vit", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text"),
    *("phi3", "smollm3", "olmo", "granite", "starcoder2"),
)
CODE = '''"""Names of TanhMax classes that type checkers know: `named.pyi` declares them, and `architectures` makes them.

Every other architecture has its classes too; `tests/helpers/named.py` writes both files.
"""

from importlib import import_module

__all__ = [
{names}]


def __getattr__(name: str) -> object:
    """A class by its name."""
    if name not in __all__:
        raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}")
    return import_module(".architectures", __package__).class_named(name)
'''


def classes() -> dict[str, type]:
    """The classes of all families by their names: of each its config, then its heads."""
    found = {}
    for family in FAMILIES:
        config = config_of(family)
        for cls in (config, *HEADS[config].values()):
            found.setdefault(cls.__name__, cls)
    return found


def stub() -> str:
    """The text of `named.pyi`."""
    declared, upstream = [], set()
    for name, cls in classes().items():
        if cls in HEADS:
            upstream.add(cls.__mro__[2].__name__)
            declared.append(f"class {name}(TanhMaxFields, {cls.__mro__[2].__name__}): ...")
        else:
            upstream.add(cls.__mro__[1].__name__)
            declared.append(f"class {name}({cls.__mro__[1].__name__}):\n    config: {cls.config_class.__name__}")
    imports = "".join(f"    {name},\n" for name in sorted(upstream))
    names = "".join(f'    "{name}",\n' for name in sorted(classes()))
    imports = "".join(f"    {name},\n" for name in sorted(upstream))
    head = f"from transformers import (\n{imports})\n\nfrom .family import TanhMaxFields\n\n__all__ = [\n{names}]\n\n"
    return head + "\n\n".join(declared) + "\n"


if __name__ == "__main__":
    names = "".join(f'    "{name}",\n' for name in sorted(classes()))
    (FOLDER / "named.py").write_text(CODE.format(names=names), encoding="utf-8")
    (FOLDER / "named.pyi").write_text(stub(), encoding="utf-8")
    sys.exit(subprocess.run(["ruff", "format", "-q", FOLDER / "named.py", FOLDER / "named.pyi"], check=False).returncode)
