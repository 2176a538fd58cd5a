"""Files that the package reads: in a wheel they lie inside the package, in a checkout beside it."""

import os
import subprocess
import sys

import pytest
from readme import ROOT

from hf_tanhmax import package_data
from hf_tanhmax.package_data import data_folder
from hf_tanhmax.results import read_runs

QUICK = (
    *("--synthetic_documents", "220", "--synthetic_vocabulary", "43", "--synthetic_polar", "14", "--max_length", "17"),
    *("--num_layers", "1", "--hidden_size", "10", "--num_heads", "2", "--batch_size", "14", "--use_cpu", "true"),
    *("--max_steps", "2", "--logging_steps", "1", "--save_steps", "2"),
)
USER = """
import hf_tanhmax
reveal_type(hf_tanhmax.tanhmax)
reveal_type(hf_tanhmax.TanhMaxSettings(polarity=0.5))
reveal_type(hf_tanhmax.PolarityCallback())
hf_tanhmax.gone
"""


def test_in_a_checkout_they_lie_beside_the_package():
    assert data_folder("recipes") == ROOT / "recipes"


def test_those_inside_the_package_come_first(tmp_path, monkeypatch):
    for folder in ("package/recipes", "recipes", "model_cards"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(package_data, "PACKAGE", tmp_path / "package")
    assert data_folder("recipes") == tmp_path / "package" / "recipes"
    assert data_folder("model_cards") == tmp_path / "model_cards"


def test_a_folder_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(package_data, "PACKAGE", tmp_path / "package")
    with pytest.raises(FileNotFoundError, match="hf_tanhmax lacks its folder 'recipes'; install hf-tanhmax again"):
        data_folder("recipes")


def test_a_wheel_holds_them_and_no_other_package():
    builders = pytest.importorskip("hatchling.builders.wheel")
    files = {file.distribution_path for file in builders.WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {file.split("/")[0] for file in files} == {"hf_tanhmax"}
    recipes = {path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.yaml") if not {"paper", "conversion"} & {*path.parts}}
    assert {f"hf_tanhmax/{path.as_posix()}" for path in recipes} <= files
    others = {
        "model_cards/template.md",
        "py.typed",
        "cli/arguments.py",
        "interpret/viz/assets/page.js",
        *(f"attention/cpu/{path.name}" for path in (ROOT / "hf_tanhmax/attention/cpu").glob("*.*") if path.suffix in (".h", ".cpp")),
    }
    assert {f"hf_tanhmax/{name}" for name in others} <= files


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package as a wheel installs it, and an environment that has it and no checkout."""
    builders = pytest.importorskip("hatchling.builders.wheel")
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = builders.WheelBuilder(str(ROOT)).build(directory=str(folder / "wheel"))
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", *install, "--target", str(folder / "target"), wheel], check=True)
    others = [place for place in sys.path if place.endswith("site-packages") or "site-packages" in place]
    return folder / "target", {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "target"), *others])}


def in_a_new_folder(folder, environment, *command):
    folder.mkdir(exist_ok=True)
    return subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_an_installed_wheel_trains_a_recipe(installed, tmp_path):
    target, environment = installed
    program = (sys.executable, target / "bin" / "hf-tanhmax")
    done = in_a_new_folder(tmp_path, environment, *program, "train", "bert/text_classification/tanhmax", *QUICK, "--results_dir", "all")
    assert done.returncode == 0, done.stderr
    (run,) = read_runs(tmp_path / "runs" / "bert--text_classification--tanhmax--seed0" / "results.json")
    assert run["metrics"]["steps"] == 2
    assert (tmp_path / "all" / "bert--text_classification--tanhmax.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "all"}


@pytest.mark.slow
def test_an_installed_wheel_is_one_package(installed, tmp_path):
    target, environment = installed
    code = """
import importlib.util, pathlib, hf_tanhmax, hf_tanhmax.package_data
print(pathlib.Path(hf_tanhmax.__file__).parent, hf_tanhmax.package_data.data_folder("recipes"), importlib.util.find_spec("recipes"))
"""
    done = in_a_new_folder(tmp_path, environment, sys.executable, "-S", "-c", code)  # -S: an editable install would add the checkout
    assert done.stdout == f"{target / 'hf_tanhmax'} {target / 'hf_tanhmax' / 'recipes'} None\n", done.stderr
    done = in_a_new_folder(tmp_path, environment, sys.executable, target / "bin" / "hf-tanhmax", "bench", "attention")
    assert done.returncode == 2
    assert done.stderr == (
        "error: recipes.benchmarks.attention is not part of the installed package; run it from a checkout of the repository\n"
    )


@pytest.mark.slow
def test_types_of_public_names_are_found(tmp_path):
    """In a strict check of what a user writes; names that do not exist are errors."""
    api = pytest.importorskip("mypy.api")
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nmypy_path = {ROOT}\nfollow_imports = silent\nignore_missing_imports = true\n")
    said, _, _ = api.run(["--strict", "--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(tmp_path), str(tmp_path / "user.py")])
    types = [line.split('"')[1] for line in said.splitlines() if "Revealed type" in line]
    assert types[0].startswith("def (scores: torch._tensor.Tensor, ")
    assert types[1:] == ["hf_tanhmax.settings.TanhMaxSettings", "hf_tanhmax.training.annealing.PolarityCallback"]
    assert [line.split("error: ")[1] for line in said.splitlines() if "error: " in line] == [
        'Module has no attribute "gone"  [attr-defined]',
    ]
