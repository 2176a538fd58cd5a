"""The rooms: imports point down, no circles, no wide folders; importing stays light, and public names are known."""

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import hf_tanhmax
from hf_tanhmax.models import named

PACKAGE = Path(hf_tanhmax.__file__).parent

# From low to high: rooms, each of folders and of modules at the package's root. Imports go down, or stay in a room without a circle.
ROOMS = (
    ("choices", "errors", "functional", "package_data", "settings"),
    ("attention",),
    ("integration",),
    ("compatibility",),
    ("models",),
    ("vllm",),
    ("ablation", "checkpoint", "processors", "provenance", "results"),
    ("conversion",),
    ("doctor",),
    ("cards",),
    ("hub",),
    ("interpret",),
    ("export",),
    ("training",),
    ("cli",),
    ("__init__",),
)
LEVEL = {name: level for level, room in enumerate(ROOMS) for name in room}
WIDEST = 15  # modules of one folder

PUBLIC = {
    "PolarityCallback",
    "TanhMaxSettings",
    "convert",
    "restore",
    "set_polarity",
    "tanhmax",
    "tanhmax_attention",
    "tanhmax_on",
    "to_softmax",
    "use_tanhmax",
    "why_not",
    *named.__all__,
}


MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(name):
    """Modules of the package that a module imports, by their names in `MODULES`."""
    folder = name.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                places = (
                    ".".join([*base, alias.name]),
                    ".".join([*base, alias.name, "__init__"]),
                    ".".join(base),
                    ".".join([*base, "__init__"]),
                )
                yield next(place for place in places if place in MODULES)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not {each.split(".")[0] for each in names} & {"hf_tanhmax", "recipes", "tests"}, f"{name} imports {names}"


IMPORTS = {name: set(imports_of(name)) for name in MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    assert name.split(".")[0] in LEVEL, f"{name} is in no room"
    for target in IMPORTS[name]:
        assert LEVEL[target.split(".")[0]] <= LEVEL[name.split(".")[0]], f"{name} imports {target}, which is in a higher room"


def test_no_module_imports_itself_by_a_circle():
    def circle(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in harmless:
            return None
        found = next(filter(None, (circle(target, [*path, name]) for target in sorted(IMPORTS[name]))), None)
        harmless.add(name)
        return found

    harmless = set()
    for name in MODULES:
        assert circle(name, []) is None, f"a circle: {' -> '.join(circle(name, []))}"


def test_every_room_exists():
    assert {name.split(".")[0] for name in MODULES} == set(LEVEL)


def test_no_folder_is_too_wide():
    folders = Counter(
        path.parent.relative_to(PACKAGE.parent).as_posix() for path in (*MODULES.values(), *PACKAGE.parent.glob("recipes/**/*.py"))
    )
    assert {folder: count for folder, count in folders.items() if count > WIDEST} == {}


def test_public_names():
    assert set(hf_tanhmax.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(hf_tanhmax, name).__doc__


def in_a_fresh_process(code):
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.slow
def test_cold_import_is_light():
    code = """
import json, sys
import hf_tanhmax, torch
assert hf_tanhmax.TanhMaxBertConfig and "hf_tanhmax.training" not in sys.modules
heavy = ("triton", "matplotlib", "sklearn", "datasets", "peft", "accelerate", "captum", "torchvision", "recipes")
print(json.dumps({"heavy": [name for name in heavy if name in sys.modules], "cuda": torch.cuda.is_initialized()}))
"""
    bare = "import json, sys\nfrom transformers import BertModel, LlamaModel, ViTModel\nprint(json.dumps(list(sys.modules)))"
    found = in_a_fresh_process(code)
    assert not found["cuda"]
    assert not set(found["heavy"]) - set(in_a_fresh_process(bare))


@pytest.mark.slow
def test_import_adds_little_to_transformers():
    """At most a tenth of the time that Transformers' own model classes take, in one of three tries."""
    code = """
import json, time
start = time.perf_counter()
from transformers import BertForMaskedLM, LlamaForCausalLM, ViTForImageClassification
middle = time.perf_counter()
import hf_tanhmax
print(json.dumps((time.perf_counter() - middle) / (middle - start)))
"""
    assert any(in_a_fresh_process(code) < 0.1 for _ in range(3))
