"""Files that the package reads: in a wheel they lie inside the package, in a checkout beside it."""

import pytest
from readme import ROOT

from hf_tanhmax import package_data
from hf_tanhmax.package_data import data_folder


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
    recipes = {path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.yaml") if "paper" not in path.parts}
    assert {f"hf_tanhmax/{path.as_posix()}" for path in recipes} <= files
    others = {"model_cards/template.md", "cli/arguments.py", "interpret/viz/assets/page.js", "attention/cpu/attention.cpp"}
    assert {f"hf_tanhmax/{name}" for name in others} <= files
