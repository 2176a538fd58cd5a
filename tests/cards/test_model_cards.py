"""The cards of this project's own models: three are kept and are what their results say, and all have what a card must have."""

import re

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id
from made_cards import CARDS, DATASETS, KEPT, rendered

from hf_tanhmax.cards.metadata import METRICS

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
    assert {result.dataset_type for result in card.data.eval_results or ()} <= set(DATASETS.values())
    assert bool(card.data.eval_results) == ("20news" not in name)
    assert re.findall(r"^## (.*)", card.text, re.MULTILINE) == list(SECTIONS)
    assert f"\n# {name}\n" in card.text
    assert card.text.count("```python\n") == 3
    assert "\n| softmax " in card.text
    assert "\n* Epochs: " in card.text


@pytest.mark.parametrize("name", MADE)
def test_the_evaluation_results_are_the_hubs(name):
    """As huggingface_hub reads and writes them: of a data set that can be there, a number of a metric that has a page there."""
    data = ModelCard(MADE[name]).data
    for result in data.eval_results or ():
        validate_repo_id(result.dataset_type)
        assert result.metric_type in METRICS
        assert isinstance(result.metric_value, float)
        assert result.task_type == data.pipeline_tag
    if data.eval_results:
        index = eval_results_to_model_index(data.model_name, data.eval_results)
        assert model_index_to_eval_results(index) == (name, data.eval_results)


def test_fifteen_models_have_a_card():
    assert len(MADE) == 15
