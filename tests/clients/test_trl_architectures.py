"""TRL on converted models: packed and padding-free sequences see themselves alone; the reference of preferences is TanhMax or refused."""

import re
from itertools import pairwise

import pytest
import torch
import transformers
from datasets import Dataset
from tiny_checkpoints import by_definition, pieces, save_converted, save_softmax

import hf_tanhmax
from hf_tanhmax.integration.model_names import CONVERTED
from hf_tanhmax.models.family import TanhMaxFields

trl = pytest.importorskip("trl", reason="TRL is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),  # TRL asks by old names
    pytest.mark.filterwarnings("ignore:.*use_return_dict.* is deprecated:FutureWarning"),
]
DECODERS = {"Mistral": "MistralForCausalLM", "Qwen3": "Qwen3ForCausalLM", "Gemma 2": "Gemma2ForCausalLM", "Gemma 3": "Gemma3ForCausalLM"}
every_decoder = pytest.mark.parametrize("name", DECODERS)
TEXTS = ["a gripping, funny film", "not funny", "a film, and why not", "a good one"]
QUIET = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False, "bf16": False, "save_strategy": "no"}
QUIET |= {"gradient_checkpointing": False, "seed": 0}


def folders(name, tmp_path, **settings):
    softmax = save_softmax(tmp_path / "softmax", DECODERS[name], name, pieces(length=96), max_position_embeddings=96)
    return softmax, save_converted(softmax, tmp_path / "tanhmax", **settings)


def finetuning(model, tmp_path, texts=TEXTS, **changes):
    options = {"max_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 0.0, "logging_steps": 1, "max_length": None, **changes}
    return trl.SFTTrainer(
        model,
        args=trl.SFTConfig(str(tmp_path / "run"), **options, **QUIET),
        train_dataset=Dataset.from_list([{"text": each} for each in texts]),
    )


WAYS = {
    "packed": {"packing": True, "max_length": 96},
    "padding-free": {"padding_free": True},
    "padded": {},
}


@torch.no_grad()
def logits_by_sequence(model, batch):
    """The logits of a batch of TRL, cut into its sequences: at each position 0, or where padding begins."""
    inputs = {key: value for key, value in batch.items() if key in ("input_ids", "attention_mask", "position_ids")}
    logits = model.eval()(**inputs).logits
    if "position_ids" in batch and batch["input_ids"].shape[0] == 1:
        starts = [*(batch["position_ids"][0] == 0).nonzero().flatten().tolist(), batch["input_ids"].shape[1]]
        return [(batch["input_ids"][0, start:end], logits[0, start:end]) for start, end in pairwise(starts)]
    lengths = batch["attention_mask"].sum(1).tolist()
    return [(batch["input_ids"][row, :length], logits[row, :length]) for row, length in enumerate(lengths)]


@every_decoder
@pytest.mark.parametrize("way", WAYS)
def test_sequences_of_a_batch_see_themselves_alone(way, name, tmp_path):
    softmax, folder = folders(name, tmp_path)
    trainer = finetuning(folder, tmp_path, **WAYS[way])
    model = trainer.model
    assert type(model).__name__ == f"TanhMax{DECODERS[name]}"
    batch = next(iter(trainer.get_train_dataloader()))
    assert ("position_ids" in batch) == (way != "padded")
    found = logits_by_sequence(model, batch)
    assert len(found) == len(TEXTS)
    twin = by_definition(model, softmax)
    stock = transformers.AutoModelForCausalLM.from_pretrained(softmax)
    for tokens, logits in found:
        with torch.no_grad():
            torch.testing.assert_close(logits, twin(tokens[None]).logits[0], atol=2e-5, rtol=2e-4)
            assert (logits - stock(tokens[None]).logits[0]).abs().max() > 1e-3


@every_decoder
def test_the_same_loss_and_gradients_however_sequences_are_batched(name, tmp_path):
    _, folder = folders(name, tmp_path)
    found = {}
    for way, options in WAYS.items():
        trainer = finetuning(folder, tmp_path, **options)
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(trainer.model.eval(), batch)
        loss.backward()
        found[way] = {"loss": loss.detach()} | {key: value.grad for key, value in trainer.model.named_parameters()}
    for way in ("packed", "padding-free"):
        for key, value in found[way].items():
            torch.testing.assert_close(value, found["padded"][key], atol=2e-5, rtol=2e-4, msg=lambda text, key=key: f"{key}: {text}")


@every_decoder
@pytest.mark.parametrize("way", WAYS)
def test_a_trained_model_reloads_to_the_bit(way, name, tmp_path):
    _, folder = folders(name, tmp_path)
    trainer = finetuning(folder, tmp_path, TEXTS * 4, **{**WAYS[way], "max_steps": 2, "learning_rate": 1e-2})
    before = trainer.model.get_output_embeddings().weight.clone()
    trainer.train()
    assert not torch.equal(trainer.model.get_output_embeddings().weight, before)
    trainer.save_model(str(tmp_path / "trained"))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    assert type(again) is type(trainer.model)
    ids = torch.arange(3, 17)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, trainer.model.eval()(ids).logits)


def preferences(model, tmp_path, reference=None, **changes):
    row = {"prompt": "a gripping", "chosen": " funny film", "rejected": " not funny at all"}
    options = {"max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2, "per_device_train_batch_size": 2, **changes}
    return trl.DPOTrainer(
        model,
        ref_model=reference,
        args=trl.DPOConfig(str(tmp_path / "run"), **options, **QUIET),
        train_dataset=Dataset.from_list([row] * 4),
        processing_class=transformers.AutoTokenizer.from_pretrained(tmp_path / "softmax"),
    )


def losses(trainer):
    trainer.train()
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


@every_decoder
@pytest.mark.parametrize("way", ["by itself, from a folder", "by itself, from a model", "given"])
def test_the_reference_is_tanhmax(way, name, tmp_path):
    softmax, folder = folders(name, tmp_path)
    model = folder if way == "by itself, from a folder" else transformers.AutoModelForCausalLM.from_pretrained(folder)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder) if way == "given" else None
    trainer = preferences(model, tmp_path, reference)
    reference = trainer.ref_model
    assert isinstance(reference.config, TanhMaxFields)
    assert type(reference).__name__ == f"TanhMax{DECODERS[name]}"
    ids = torch.arange(3, 17)[None]
    with torch.no_grad():
        expected = by_definition(transformers.AutoModelForCausalLM.from_pretrained(folder), softmax)(ids).logits
        torch.testing.assert_close(reference.eval()(ids).logits, expected, atol=2e-5, rtol=2e-4)
    first, second = losses(trainer)
    assert first == pytest.approx(0.693147, abs=1e-5)  # model and reference are the same before the first step
    assert second < first
    with torch.no_grad():
        torch.testing.assert_close(reference.eval()(ids).logits, expected, atol=2e-5, rtol=2e-4)
    trainer.save_model(str(tmp_path / "trained"))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    with torch.no_grad():
        assert torch.equal(again(ids).logits, trainer.model.eval()(ids).logits)


@every_decoder
def test_a_reference_of_a_model_in_memory_is_refused(name, tmp_path):
    softmax, _ = folders(name, tmp_path)
    with pytest.raises(OSError, match=re.escape(softmax + CONVERTED)):
        preferences(hf_tanhmax.convert(softmax), tmp_path)
