"""A process that makes tiny models of each family and publishes them every way there is; what they compute it leaves in a folder."""

import json
import shutil
import sys
from pathlib import Path

import torch
from families import inputs_for, tiny_model
from peft import LoraConfig, get_peft_model
from publishable import tokenizer
from safetensors.torch import save_file
from transformers import Trainer, TrainingArguments

import hf_tanhmax
from hf_tanhmax.hub import push

HEADS = {
    "bert": ("AutoModelForSequenceClassification", hf_tanhmax.TanhMaxBertForSequenceClassification),
    "vit": ("AutoModelForImageClassification", hf_tanhmax.TanhMaxViTForImageClassification),
    "llama": ("AutoModelForCausalLM", hf_tanhmax.TanhMaxLlamaForCausalLM),
}


class Publisher:
    """Remembers what was published where, and what it computed."""

    def __init__(self, place: Path):
        self.place, self.plan, self.tensors = place, [], {}

    def note(self, name, family, model, url, **how):
        auto = HEADS[family][0]
        inputs = inputs_for(family, auto)
        with torch.no_grad():
            self.tensors[f"{name}.logits"] = model.eval()(**inputs).logits.contiguous()
        self.tensors |= {f"{name}.inputs.{key}": tensor for key, tensor in inputs.items()}
        self.plan.append({"name": name, "auto": auto, "repo": f"owner/{name}", "revision": url.rsplit("/", 1)[1], **how})

    def save(self):
        save_file(self.tensors, self.place / "expected.safetensors")
        (self.place / "plan.json").write_text(json.dumps(self.plan))


def main(place: Path) -> None:
    publisher = Publisher(place)
    for family, (_, cls) in HEADS.items():
        model, repo = tiny_model(cls, num_hidden_layers=2), f"owner/{family}"
        publisher.note(f"{family}-first", family, model, push(saved(model, place / family), repo), repo=repo, pinned=True)
        with torch.no_grad():
            next(model.parameters()).mul_(0.5)
        publisher.note(family, family, model, push(saved(model, place / family), repo))
        assert not torch.equal(publisher.tensors[f"{family}-first.logits"], publisher.tensors[f"{family}.logits"])
    publisher.note("llama-model", "llama", model, model.push_to_hub("owner/llama-model", commit_message="By the model"))
    for family in ("bert", "llama"):
        adapted, folder = with_adapter(family, place)
        publisher.note(f"{family}-adapter", family, adapted, push(folder, f"owner/{family}-adapter", private=True), adapter=True)
    publisher.note("llama-merged", "llama", merged_with_a_base_on_the_hub(adapted, folder), push(folder, "owner/llama-merged", merge=True))
    publisher.note("bert-trainer", "bert", *by_the_trainer(place))
    publisher.save()


def saved(model, folder):
    model.save_pretrained(folder)
    if model.config.model_type == "tanhmax_vit":
        size = {"height": 15, "width": 15}
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "ViTImageProcessor", "size": size}))
    else:
        tokenizer().save_pretrained(folder)
    return folder


def with_adapter(family, place):
    """As a recipe leaves it: the base in the folder `base` of the adapter's."""
    folder, cls = place / f"{family}-adapter", HEADS[family][1]
    tiny_model(cls, num_hidden_layers=2).save_pretrained(folder / "base")
    task, targets = ("SEQ_CLS", ["query", "value"]) if family == "bert" else ("CAUSAL_LM", ["q_proj", "v_proj"])
    config = LoraConfig(task_type=task, target_modules=targets, r=2, init_lora_weights=False)
    adapted = get_peft_model(cls.from_pretrained(folder / "base"), config)
    adapted.save_pretrained(folder)
    return adapted, folder


def merged_with_a_base_on_the_hub(adapted, folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    shutil.rmtree(folder / "base")
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "owner/llama-adapter-base"}))
    return adapted.merge_and_unload()


def by_the_trainer(place):
    columns = {name: tensor.tolist() for name, tensor in inputs_for("bert", HEADS["bert"][0], labels=True).items()}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    hub = {"push_to_hub": True, "hub_model_id": "owner/bert-trainer"}
    arguments = TrainingArguments(str(place / "trainer"), max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True, **hub)
    trainer = Trainer(tiny_model(HEADS["bert"][1], num_hidden_layers=2), arguments, train_dataset=rows)
    trainer.train()
    return trainer.model, trainer.push_to_hub().commit_url


if __name__ == "__main__":
    main(Path(sys.argv[1]))
