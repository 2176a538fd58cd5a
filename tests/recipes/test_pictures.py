"""The pictures of the README: all of them are drawn by one command, and that of a model from scratch shows one that uses its signs."""

import json
import re
from dataclasses import replace

import pytest
from PIL import Image
from readme import README

from hf_tanhmax.errors import RecipeError

pictures = pytest.importorskip("recipes.pictures", reason="needs the extra recipes")
TINY = {"max_steps": "2", "logging_steps": "1", "save_steps": "2", "health_steps": "2", "max_train_rows": "40", "max_test_rows": "20"}


def test_every_picture_of_the_readme_is_drawn_by_the_command():
    shown = set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", README.read_text()))
    assert shown == {f"recipes/results/explanations/{name}.png" for name in ("start", "digits")}
    assert all(f"`{path.rsplit('/')[-1]}`" in pictures.__doc__ for path in shown)


def test_the_model_from_scratch_uses_its_signs():
    told = json.loads((pictures.OUT / "digits.json").read_text())
    assert told["changed"] == pictures.DIGITS
    assert told["ablation"]["effects"]["negatives_masked"]["high"] < 0  # of accuracy
    assert told["ablation"]["as_is"] == pytest.approx(told["test_accuracy"])


@pytest.mark.slow
def test_digits(tmp_path, monkeypatch):
    measured = pictures.ablate_negatives

    def ablated(*given, matters, **options):
        found = measured(*given, **options)
        masked = found.effects["negatives_masked"]
        difference = {"difference": -0.2, "low": -0.3, "high": -0.1} if matters else {"difference": 0.0, "low": -0.1, "high": 0.1}
        return replace(found, effects={"negatives_masked": replace(masked, **difference)})

    monkeypatch.setattr(pictures, "ablate_negatives", lambda *given, **options: ablated(*given, matters=False, **options))
    with pytest.raises(RecipeError, match=r"no picture of .*work: No effect of the negative weights was found"):
        pictures.draw_digits(tmp_path / "work", tmp_path, **TINY)
    assert not (tmp_path / "digits.png").exists()
    monkeypatch.setattr(pictures, "ablate_negatives", lambda *given, **options: ablated(*given, matters=True, **options))
    pictures.draw_digits(tmp_path / "work", tmp_path, **TINY)  # the model that is there
    with Image.open(tmp_path / "digits.png") as drawn:
        assert drawn.width > 500
    told = json.loads((tmp_path / "digits.json").read_text())
    assert told["ablation"]["rows"] == 20
    assert told["image"] == pictures.RULE


def test_what_start_returns_is_returned(tmp_path, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(pictures, "hf_tanhmax", lambda arguments: given.append(arguments) or 2)
    assert pictures.main(["--model", "m", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]) == 2
    folder, picture = tmp_path / "work" / "start", tmp_path / "out" / "start.png"
    assert given == [["start", "--out", str(folder), "--picture", str(picture), "--model", "m"]]

    def refuse(*_):
        raise RecipeError("no picture")

    monkeypatch.setattr(pictures, "hf_tanhmax", lambda _: 0)
    monkeypatch.setattr(pictures, "draw_digits", refuse)
    assert pictures.main(["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: no picture\n"
