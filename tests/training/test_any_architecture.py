"""Health and annealing of encoders beside decoders and of models of several towers."""

import pytest
import torch
from transformers import AutoModel, Trainer, TrainingArguments
from walked import WALKED

from hf_tanhmax import PolarityCallback, set_polarity
from hf_tanhmax.checkpoint import read_checkpoint
from hf_tanhmax.training.health import attention_health, softmax_norms

MODULES = {"mistral": 2, "dinov2": 2, "clip": 4, "t5": 6, "bart_classifier": 6, "bart_decoder": 2, "whisper": 6, "albert": 1}


def batch_of(name):
    return {key: value.repeat(2, *[1] * (value.dim() - 1)) for key, value in WALKED[name].inputs().items()}


@pytest.mark.parametrize("name", MODULES)
def test_health_of_every_attention_that_is_called(name):
    model, batches = WALKED[name].model(), [batch_of(name)]
    report = attention_health(model, batches, baseline=softmax_norms(model, batches))
    assert len(report["layers"]) == MODULES[name]
    assert all(0.05 < layer["negative_mass"] < 0.95 and layer["output_norm"] > 0 for layer in report["layers"])
    named = [path for path, module in model.named_modules() if path in report.get("names", [])]
    assert named == report.get("names", [])
    assert len(named) == (MODULES[name] if name in ("clip", "t5", "bart_classifier", "whisper") else 0)
    set_polarity(model, 0.0)
    assert attention_health(model, batches)["overall"]["negative_mass"] == 0
    assert attention_health(model, batches)["overall"]["weight_sum"] == pytest.approx(1.0, abs=1e-5)


def test_weights_of_cross_attention_by_hand():
    """Of two texts of which one is padded, and two answers of which one is: padding counts in neither."""
    model, case = WALKED["t5"].model(), WALKED["t5"]
    words, answer = case.inputs()["input_ids"], case.inputs()["decoder_input_ids"]
    masks = torch.ones(2, 9, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)
    masks[0][1, 6:], masks[1][1, 3:] = 0, 0
    inputs = {"input_ids": words.repeat(2, 1), "decoder_input_ids": answer.repeat(2, 1)}
    inputs |= {"attention_mask": masks[0], "decoder_attention_mask": masks[1]}
    report = attention_health(model, [inputs])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(**inputs, output_attentions=True)
    weights = dict(zip(report["names"], report["layers"], strict=True))
    for name, found, real in (
        ("encoder.block.1.layer.0.SelfAttention", outputs.encoder_attentions[1], masks[0]),
        ("decoder.block.0.layer.0.SelfAttention", outputs.decoder_attentions[0], masks[1]),
        ("decoder.block.1.layer.1.EncDecAttention", outputs.cross_attentions[1], masks[1]),
    ):
        kept = found.double().transpose(1, 2)[real.bool()]
        assert weights[name]["negative_mass"] == pytest.approx(float(-kept.clamp(max=0).sum() / kept.abs().sum()), rel=1e-5)
        assert weights[name]["weight_sum"] == pytest.approx(float(kept.abs().sum(-1).mean()), rel=1e-5)


def test_labels_give_a_decoder_its_inputs():
    model = WALKED["t5"].model()
    labels = torch.tensor([[7, 8, -100], [9, 8, 7]])
    by_labels = attention_health(model, [{"input_ids": WALKED["t5"].inputs()["input_ids"].repeat(2, 1), "labels": labels}])
    assert len(by_labels["layers"]) == 6


@pytest.mark.parametrize("name", ["clip", "t5"])
def test_annealing_sets_and_saves_the_polarity_of_every_part(name, tmp_path):
    case, model = WALKED[name], WALKED[name].model(0.0)
    extra = {"return_loss": True} if name == "clip" else {"labels": torch.tensor([5, 6])}
    rows = [{key: value[0] for key, value in case.inputs().items() if key != "decoder_input_ids"} | extra] * 4
    options = {"max_steps": 2, "per_device_train_batch_size": 2, "report_to": "none", "use_cpu": True, "save_strategy": "no"}
    arguments = TrainingArguments(output_dir=str(tmp_path / "run"), **options, dataloader_pin_memory=False)

    def collate(rows):
        tensors = {key: torch.stack([row[key] for row in rows]) for key in rows[0] if isinstance(rows[0][key], torch.Tensor)}
        return tensors | {key: value for key, value in rows[0].items() if not isinstance(value, torch.Tensor)}

    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collate, callbacks=[PolarityCallback(end=0.75)])
    trainer.train()
    views = [module.config for module in model.modules() if hasattr(getattr(module, "config", None), "owned")]
    assert [view.tanhmax_polarity for view in views] == [0.75] * (4 if name == "clip" else 6)
    assert [record["polarity"] for record in trainer.state.log_history][-1] == 0.75
    trainer.save_model(str(tmp_path / "saved"))
    loaded = read_checkpoint(tmp_path / "saved").load()
    assert loaded.config.tanhmax_polarity == 0.75
    assert attention_health(loaded, [batch_of(name)])["overall"]["negative_mass"] > 0.05
    assert AutoModel.from_pretrained(tmp_path / "saved").config.tanhmax_polarity == 0.75
