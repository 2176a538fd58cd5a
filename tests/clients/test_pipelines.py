"""`pipeline` on converted folders: the answers of the softmax class whose attention is computed from the definition, and no complaint."""

import logging

import numpy as np
import pytest
import torch
import transformers
from image_processors import load_images
from PIL import Image
from tiny_checkpoints import VALUES, by_definition, pieces, save_converted, save_softmax, words
from transformers import pipeline

from hf_tanhmax.models.family import TanhMaxFields

LABELS = {"id2label": {0: "entailment", 1: "neutral", 2: "contradiction"}, "label2id": {"entailment": 0, "neutral": 1, "contradiction": 2}}
TEXT = "a gripping , funny film and why not"


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (21, 17, 3), dtype=np.uint8))


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


def test_a_conversation(tmp_path, said):
    talk = [{"role": "user", "content": "a film?"}]
    found = answers(
        "text-generation", "Qwen3ForCausalLM", "Qwen3", [pieces()], talk, {"max_new_tokens": 7, "do_sample": False}, {}, tmp_path
    )
    check(found, said)


IMAGE_TASKS = {
    "image-classification": ("Dinov2ForImageClassification", "DINOv2", [], {}, {"num_labels": 3}),
    "image-feature-extraction": ("DeiTModel", "DeiT", [], {"pool": False}, {}),
    "zero-shot-image-classification": (
        "CLIPModel",
        "CLIP",
        [words()],
        {"candidate_labels": ["film", "a good one"]},
        {"logit_scale_init_value": 0.0},
    ),
}


@load_images
@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_images(task, tmp_path, said):
    head, name, tokenizers, options, changes = IMAGE_TASKS[task]
    check(answers(task, head, name, [*tokenizers, pixels()], picture(), options, changes, tmp_path), said)


@load_images
def test_a_picture_and_a_text(tmp_path, said):
    """A language model that sees, with the processor for both."""
    tokenizer = pieces()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    processor = transformers.LlavaProcessor(
        pixels(), tokenizer, patch_size=5, vision_feature_select_strategy="default", num_additional_image_tokens=1, image_token="<image>"
    )
    softmax = save_llava(tmp_path / "softmax", processor, len(tokenizer), tokenizer.convert_tokens_to_ids("<image>"))
    folder = save_converted(softmax, tmp_path / "tanhmax")
    made, expected = pipeline("image-text-to-text", model=folder), pipeline("image-text-to-text", model=softmax)
    assert type(made.model).__name__ == "TanhMaxLlavaForConditionalGeneration"
    asked = {"images": picture(), "text": "<image> a film", "max_new_tokens": 7, "do_sample": False}
    stock = expected(**asked)
    expected.model = by_definition(made.model, softmax)
    check((made(**asked), expected(**asked), stock), said)


def save_llava(folder, processor, size, image_token):
    torch.manual_seed(0)
    text = {"model_type": "llama", **VALUES["LLaMA"], "vocab_size": size, "max_position_embeddings": 64}
    vision = {"model_type": "clip_vision_model", **VALUES["CLIP"]["vision_config"], "projection_dim": 24}
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_token, image_seq_length=9, vision_feature_layer=-1
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
