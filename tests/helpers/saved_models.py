"""Small checkpoints on disk, as a run or `save_pretrained` leaves them, and results of runs."""

import json
import re
from pathlib import Path

import peft
from families import CONFIGS, FAMILIES, VOCABULARY, tiny_model

import hf_tanhmax
from hf_tanhmax.training.data.tokenizer import build_causal_tokenizer, build_tokenizer
from hf_tanhmax.training.tasks.image_classification import build_image_processor

TEXTS = ["Text to look at.", "a gripping, funny film", "not funny at all"]
HEADS = {"bert": "AutoModelForSequenceClassification", "vit": "AutoModelForImageClassification", "llama": "AutoModelForCausalLM"}


def processor_for(family):
    """The tokenizer or image processor of a tiny model."""
    if family == "vit":
        return build_image_processor(15)
    build = build_causal_tokenizer if family == "llama" else build_tokenizer
    return build(TEXTS, vocabulary_size=40, max_length=60)


def save_model(folder, family="bert", auto=None, *, processor=True, **changes):
    """Write a TanhMax model of random weights with its processor; returns it."""
    made = processor_for(family) if processor else None
    sizes = {"vocab_size": max(len(made), VOCABULARY)} if processor and family != "vit" else {}
    model = tiny_model(FAMILIES[CONFIGS[family]][auto or HEADS[family]], **{**sizes, **changes})
    model.save_pretrained(folder)
    if processor:
        made.save_pretrained(folder)
    return model


def save_adapter(folder, family="bert"):
    """Write a LoRA adapter with random weights, its base inside the folder, and its processor; returns the adapted model."""
    folder = Path(folder)
    model = save_model(folder / "base", family)
    model.name_or_path = str(folder / "base")
    task = {"bert": "SEQ_CLS", "llama": "CAUSAL_LM"}.get(family)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type=task, init_lora_weights=False))
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink()  # PEFT's own card
    processor_for(family).save_pretrained(folder)
    return adapted


def code_on(card):
    """The blocks of Python on a model card."""
    return re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)


def executed(*code):
    """The names that code leaves behind."""
    found = {}
    exec(compile("\n".join(code), "card", "exec"), found)
    return found


def change_json(path, **changes):
    """Rewrite a JSON file with other values; None takes a key away."""
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def result(seed=0, accuracy=0.8, **changes):
    """What a run of a recipe writes to results.json."""
    return {
        "recipe": "bert--text_classification",
        "variant": "annealed",
        "attention": "TanhMax, linear from 0 to 1",
        "seed": seed,
        "model": {
            "class": "TanhMaxBertForSequenceClassification",
            "base_model": "folder/name",
            "parameters": 12345,
            "trained_parameters": 12345,
        },
        "metrics": {
            "train_loss": 0.4,
            "train_loss_curve": [[10, 0.6]],
            "validation_accuracy": accuracy + 0.01,
            "test_accuracy": accuracy,
            "test_f1": accuracy - 0.01,
            "test_runtime": 3.0,
            "steps": 216,
        },
        "main_metric": "accuracy",
        "attention_health": {
            "overall": {"negative_mass": 0.25, "weight_sum": 0.8, "sign_entropy": 0.5, "output_norm": 0.7},
            "layers": [],
        },
        "config": {
            "attention": "tanhmax",
            "polarity": 1.0,
            "polarity_schedule": "linear",
            "polarity_start": 0.0,
            "polarity_share": 0.5,
            "score_bias": 3.0,
            "lora_rank": None,
            "num_train_epochs": 1,
            "batch_size": 32,
            "learning_rate": 5e-05,
            "max_length": 64,
            "seed": seed,
        },
        "data": {"source": "files", "sha256": {"train_file": "abc123"}, "rows": {"train": 6920, "test": 1821}},
        "versions": {"python": "3.11.7", "torch": "2.13.0", "hf-tanhmax": hf_tanhmax.__version__},
        "git": {"commit": "d2174d1f", "changed": True},
        "hardware": {"platform": "Linux", "cpus": 2, "gpu": None, "num_processes": 1},
        "wall_time_s": 1389.28,
        **changes,
    }
