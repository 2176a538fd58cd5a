"""The cards of this project's own models: three are kept and are what their results say, and all have what a card must have."""

import re

import pytest
from huggingface_hub import ModelCard
from made_cards import CARDS, KEPT, rendered

MADE = dict(rendered())
SECTIONS = (
    *("How to load it", "What was measured", "Health of its attention"),
    *("Are its negative weights used?", "What a sign means here"),
    *("Limits", "How it was trained", "The paper"),
)


def test_the_kept_cards_are_rendered_from_their_results():
    assert {path.stem for path in CARDS.glob("*.md")} == {*KEPT, "template"}
    for name in KEPT:
        assert (CARDS / f"{name}.md").read_text() == MADE[name], "run `python tests/helpers/made_cards.py`"


@pytest.mark.parametrize("name", MADE)
def test_what_every_card_has(name):
    card = ModelCard(MADE[name])
    is_adapter = name.endswith("-lora")
    assert card.data.library_name == ("peft" if is_adapter else "transformers")
    assert {"tanhmax", *(() if is_adapter else ("custom_code",))} <= set(card.data.tags)
    assert card.data.eval_results
    assert re.findall(r"^## (.*)", card.text, re.MULTILINE) == list(SECTIONS)
    assert f"\n# {name}\n" in card.text
    assert card.text.count("```python\n") == 3
    assert "\n| softmax " in card.text
    assert "\n* Epochs: " in card.text


def test_fifteen_models_have_a_card():
    assert len(MADE) == 15
