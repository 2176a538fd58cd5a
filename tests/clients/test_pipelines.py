"""`pipeline` on converted folders: the answers of the softmax class whose attention is computed from the definition, and no complaint."""

import logging

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_checkpoints import by_definition, pieces, save_converted, save_softmax, words
from transformers import pipeline

from hf_tanhmax.models.family import TanhMaxFields

LABELS = {"id2label": {0: "entailment", 1: "neutral", 2: "contradiction"}, "label2id": {"entailment": 0, "neutral": 1, "contradiction": 2}}
CONVOLUTIONS = {"conv_dim": [8, 8], "conv_stride": [10, 8], "conv_kernel": [10, 8], "num_feat_extract_layers": 2}
WAV2VEC2 = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 13,
    "vocab_size": 53,
    "initializer_range": 0.3,
}
WAV2VEC2 |= {**CONVOLUTIONS, "num_conv_pos_embeddings": 5, "num_conv_pos_embedding_groups": 2}
TEXT = "a gripping , funny film and why not"


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (21, 17, 3), dtype=np.uint8))


def sound(seconds=0.5):
    return {"raw": np.random.default_rng(0).standard_normal(int(SECOND * seconds)).astype(np.float32), "sampling_rate": SECOND}


def pixels():
    return transformers.ViTImageProcessorPil(size={"height": 15, "width": 15})


# For each task: class, architecture, processors, the pipeline's input and arguments, changes of the configuration.
TEXT_TASKS = {
    "text-classification": ("RobertaForSequenceClassification", "RoBERTa", [words()], TEXT, {"top_k": None}, LABELS),
    "token-classification": ("DistilBertForTokenClassification", "DistilBERT", [words()], TEXT, {}, {"initializer_range": 0.3}),
    "fill-mask": ("ElectraForMaskedLM", "ELECTRA", [words(types=True)], "a gripping , [MASK] film", {}, {}),
    "zero-shot-classification": (
        "RobertaForSequenceClassification",
        "RoBERTa",
        [words()],
        TEXT,
        {"candidate_labels": ["film", "user"]},
        LABELS,
    ),
    "feature-extraction": ("ModernBertModel", "ModernBERT", [words()], TEXT, {}, {}),
    "text-generation": ("MistralForCausalLM", "Mistral", [pieces()], TEXT, {"max_new_tokens": 7, "do_sample": False}, {}),
}


@pytest.fixture
def said(caplog):
    """What Transformers logs, which does not propagate by itself."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def answers(task, head, name, processors, value, options, changes, tmp_path, load=None):
    """What the pipeline says of a converted folder, and what it says with the definition."""
    first, *others = processors
    softmax = save_softmax(tmp_path / "softmax", head, name, first, **changes)
    for other in others:
        other.save_pretrained(softmax)
    folder = save_converted(softmax, tmp_path / "tanhmax")
    made = pipeline(task, model=folder)
    assert isinstance(made.model.config, TanhMaxFields)
    assert type(made.model).__name__ == f"TanhMax{head}"
    expected = pipeline(task, model=softmax)
    plain = expected(value, **options)
    expected.model = by_definition(made.model, softmax)
    return made(value, **options), expected(value, **options), plain


def numbers(answer):
    """The numbers of an answer, in order."""
    if isinstance(answer, dict):
        return [number for key in sorted(answer) for number in numbers(answer[key])]
    if isinstance(answer, list | tuple):
        return [number for each in answer for number in numbers(each)]
    if isinstance(answer, torch.Tensor | np.ndarray):
        return [float(each) for each in answer.reshape(-1)]
    return [float(answer)] if isinstance(answer, int | float | np.number) else []


def texts(answer):
    if isinstance(answer, dict):
        return [text for key in sorted(answer) for text in texts(answer[key])]
    if isinstance(answer, list | tuple):
        return [text for each in answer for text in texts(each)]
    return [answer] if isinstance(answer, str) else []


def check(found, said):
    answer, expected, softmax = found
    assert texts(answer) == texts(expected)
    assert numbers(answer) == pytest.approx(numbers(expected), abs=1e-4)
    assert (texts(answer), numbers(answer)) != (texts(softmax), pytest.approx(numbers(softmax), abs=1e-3))
    assert "not supported" not in said.text


@pytest.mark.parametrize("task", TEXT_TASKS)
def test_text(task, tmp_path, said):
    check(answers(task, *TEXT_TASKS[task], tmp_path), said)
