"""The cards of this project's own runs are what their results say."""

import pytest
from huggingface_hub import ModelCard
from made_cards import CARDS, rendered

MADE = dict(rendered())


def test_there_is_a_card_for_every_kept_model_and_none_besides():
    assert {path.name for path in CARDS.glob("*.md")} == {path.name for path in MADE} | {"template.md"}


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.stem)
def test_a_card_is_rendered_from_its_results(path):
    assert path.read_text() == MADE[path], "run `python tests/helpers/made_cards.py`"
    assert ModelCard(MADE[path]).data.library_name in ("transformers", "peft")
