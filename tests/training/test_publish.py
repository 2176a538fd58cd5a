"""What cannot be published is found before training; what can is in tests/hub/test_publishing.py."""

from types import SimpleNamespace

import pytest
from loopback.fixture import hub, hub_here  # noqa: F401
from loopback.server import OWNER_TOKEN
from saved_models import processor_for, save_model
from transformers import pipeline

from hf_tanhmax.training.publish import example_of


@pytest.mark.parametrize(
    ("family", "auto", "task", "name", "given"),
    [
        ("bert", None, "bert/text_classification", "text-classification", "Text to look at."),
        ("bert", "AutoModelForMaskedLM", "bert/masked_lm", "fill-mask", "Text to [MASK] at."),
        ("llama", None, "llama/causal_lm", "text-generation", "Text to look at."),
    ],
)
def test_the_example_of_a_card_is_what_a_pipeline_prints(family, auto, task, name, given, tmp_path):
    model, tokenizer = save_model(tmp_path, family, auto).eval(), processor_for(family)
    found = example_of(model, SimpleNamespace(config=SimpleNamespace(task=task)), tokenizer)["example"]
    assert found["input"] == given
    options = eval(f"dict({found['options'].removeprefix(', ')})")
    answers = pipeline(name, model=str(tmp_path))(given, **options)
    for answer in answers:
        answer.update({key: round(value, 3) for key, value in answer.items() if isinstance(value, float)})
    assert found["output"] == str(answers)


def test_no_image_of_anybody_is_an_example():
    assert example_of(None, SimpleNamespace(config=SimpleNamespace(task="vit/image_classification")), None) == {}


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        ("owner/bert", None, "push_to_hub: nobody is logged in: run `hf auth login`, set HF_TOKEN"),
        ("owner/bert", "hf_nobodyKnowsThisToken", "push_to_hub: the Hub does not know the token"),
        ("no such/name/at all", OWNER_TOKEN, "push_to_hub: 'no such/name/at all' is no name of a repository"),
    ],
)
def test_what_cannot_be_published_is_found_before_training(repo, token, message, hub_here, train, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    code, said, _ = train("tanhmax", "--push_to_hub", repo)
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert token is None or token not in said
    assert not (tmp_path / "run").exists()


def test_a_softmax_model_is_not_published_as_tanhmax(train):
    code, said, _ = train("softmax", "--push_to_hub", "owner/bert")
    assert code == 2
    assert "push_to_hub publishes TanhMax models, but attention is softmax" in said
