"""Whole runs of language models: what is measured before training and after it, and what is said of it in the terminal and on the card."""

import json
import random

import pytest

from hf_tanhmax.cards.text import escaped
from hf_tanhmax.training.conversion.check import start_and_end

CAUSAL = "llama/causal_lm"


@pytest.fixture(scope="module")
def alternating(tmp_path_factory):
    """Texts of two words that take turns, so that the next word is told by attention alone."""
    choice = random.Random(0)
    texts = (" ".join(f"w{word}" for word in choice.sample(range(12), 2) * 5) for _ in range(400))
    path = tmp_path_factory.mktemp("texts") / "alternating.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return str(path)


@pytest.mark.slow
def test_a_decoder_that_is_converted_at_once_is_said_to_be_destroyed_and_a_balanced_one_is_not(train, alternating, tmp_path):
    rows = ("--train_file", alternating, "--max_length", "32", "--health_rows", "20")
    code, said, _ = train(
        "softmax", *rows, "--max_steps", "120", "--learning_rate", "2e-2", "--save_steps", "200", task=CAUSAL, folder="start"
    )
    assert code == 0, said
    start = ("--model_name_or_path", str(tmp_path / "start"), *rows)
    found = {}
    for name in ("tanhmax", "annealed", "balanced", "aligned"):
        code, said, results = train(name, *start, task=CAUSAL, folder=name)
        assert code == 0, said
        found[name] = results["conversion"]
        assert f"{name}: {start_and_end(found[name])}" in said
        card = (tmp_path / name / "README.md").read_text()
        for sentence in found[name]["warnings"]:
            assert f"{name}: WARNING: {sentence}" in said
            assert f"**Warning:** {escaped(sentence)}." in card
        assert ("WARNING" in said, "**Warning:**" in card) == (bool(found[name]["warnings"]),) * 2
    destroyed, late = found["tanhmax"]["warnings"]
    assert destroyed.startswith("conversion destroyed this model")
    assert late.startswith("training did not make up for the conversion")
    (late,) = found["annealed"]["warnings"]  # which begins as softmax, and ends as bad
    assert late.startswith("training did not make up for the conversion")
    assert found["annealed"]["converted_loss"] == found["annealed"]["softmax_loss"]
    assert found["balanced"]["warnings"] == found["aligned"]["warnings"] == []
    assert len({each["softmax_loss"] for each in found.values()}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("task", ["llama/sft", "bert/masked_lm"])
def test_a_checkpoint_that_is_tanhmax_already_has_a_start_but_no_softmax(task, train, tmp_path):
    train("tanhmax", task=task, folder="first")
    _, _, results = train("tanhmax", "--model_name_or_path", str(tmp_path / "first"), task=task)
    assert set(results["conversion"]) == {"checked_rows", "converted_loss", "trained_loss", "warnings"}
    assert results["conversion"]["checked_rows"] == 5
