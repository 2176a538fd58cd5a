"""A checkpoint, a run's folder and an adapter to publish, each tiny."""

import json

import pytest
from families import tiny_model
from peft import LoraConfig, get_peft_model
from transformers import BertTokenizer

from hf_tanhmax import TanhMaxBertForSequenceClassification

asks_by_an_old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT
RESULTS = {
    "recipe": "bert--text_classification",
    "variant": "annealed",
    "seed": 0,
    "attention": "TanhMax, linear from 0 to 1",
    "model": {"class": "TanhMaxBertForSequenceClassification", "base_model": "org/name", "parameters": 10, "trained_parameters": 10},
    "metrics": {"test_accuracy": 0.75, "test_f1": 0.7, "validation_accuracy": 0.8, "train_loss": 0.5, "steps": 7},
    "main_metric": "accuracy",
    "attention_health": {"overall": {"negative_mass": 0.1, "weight_sum": 0.5, "sign_entropy": 0.3, "output_norm": 1.0}, "layers": []},
    "config": {"polarity": 1.0, "learning_rate": 1e-3, "batch_size": 8, "dataset": "stanfordnlp/sst2"},
    "data": {"source": "stanfordnlp/sst2", "sha256": {}, "rows": {"train": 64, "test": 32}},
    "versions": {"python": "3.11", "torch": "2.13", "transformers": "5.23", "hf-tanhmax": "0.1.0"},
    "git": None,
    "hardware": {"device": "cpu", "gpu": None, "cpus": 2, "num_processes": 1, "distributed_type": "NO", "threads": 1, "platform": "x"},
    "wall_time_s": 1.0,
}
RUBBISH = (
    "checkpoint-5/model.safetensors",
    "checkpoint-5/optimizer.pt",
    "events.out.tfevents.1",
    "optimizer.pt",
    "pytorch_model.bin",
    "recipe.json",
    "runs/today/events.out.tfevents.2",
    "training_args.bin",
)
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
MODEL = {"README.md", "config.json", "model.safetensors", "modeling_tanhmax.py"}


def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})


@pytest.fixture
def checkpoint(tmp_path):
    """The folder of a saved model and its tokenizer."""
    tiny_model(TanhMaxBertForSequenceClassification, num_hidden_layers=1).save_pretrained(tmp_path / "saved")
    tokenizer().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def run_folder(checkpoint):
    """The same with results, a figure, and what a training leaves behind."""
    (checkpoint / "results.json").write_text(json.dumps(RESULTS))
    for name in ("figures/weights.png", *RUBBISH):
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_bytes(b"\x89PNG not much")
    return checkpoint


@pytest.fixture
def adapter(checkpoint):
    """The folder of an adapter, which has its base in the folder `base`."""
    base = TanhMaxBertForSequenceClassification.from_pretrained(checkpoint)
    return saved_adapter(base, checkpoint.parent)


def saved_adapter(base, place):
    base.save_pretrained(place / "adapter" / "base")
    base = type(base).from_pretrained(place / "adapter" / "base")
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=2, init_lora_weights=False))
    model.save_pretrained(place / "adapter")
    return place / "adapter"
