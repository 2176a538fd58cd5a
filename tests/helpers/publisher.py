"""A process that makes tiny models of each family and publishes them every way there is; what they compute it leaves in a folder."""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from families import inputs_for, tiny_model
from peft import LoraConfig, get_peft_model
from publishable import RESULTS, tokenizer
from tiny_runs import tiny
from transformers import Trainer, TrainingArguments

import hf_tanhmax
from hf_tanhmax.cli.arguments import main as command
from hf_tanhmax.hub import push
from hf_tanhmax.training.configuration.recipe import task_base
from hf_tanhmax.training.train import main as train

HEADS = {
    "bert": ("AutoModelForSequenceClassification", hf_tanhmax.TanhMaxBertForSequenceClassification),
    "vit": ("AutoModelForImageClassification", hf_tanhmax.TanhMaxViTForImageClassification),
    "llama": ("AutoModelForCausalLM", hf_tanhmax.TanhMaxLlamaForCausalLM),
}


RECIPES = {"bert": "bert/text_classification", "vit": "vit/image_classification", "llama": "llama/causal_lm"}


class Publisher:
    """Remembers what was published where, and what it computed."""

    def __init__(self, place: Path):
        self.place, self.plan = place, []

    def note(self, name, family, model, *, repo=None, revision=None, adapter=False, by_card=False, inputs=None):
        auto = HEADS[family][0]
        inputs = inputs or inputs_for(family, auto)
        with torch.no_grad():
            logits = model.eval()(**inputs).logits
        (self.place / "expected" / name).mkdir(parents=True)
        torch.save({"inputs": inputs, "logits": logits}, self.place / "expected" / name / "expected.pt")
        said = {"revision": revision, "adapter": adapter, "by_card": by_card}
        self.plan.append({"name": name, "auto": auto, "repo": repo or f"owner/{name}", **said})
        return logits


def main(place: Path) -> None:
    publisher = Publisher(place)
    for family, task in RECIPES.items():
        model, inputs = by_a_recipe(family, task, place)
        publisher.note(f"{family}-recipe", family, model, inputs=inputs)
    for family, (_, cls) in HEADS.items():
        model, repo = tiny_model(cls, num_hidden_layers=2), f"owner/{family}"
        url = push(saved(model, place / family), repo)
        before = publisher.note(f"{family}-first", family, model, repo=repo, revision=url.rsplit("/", 1)[1])
        with torch.no_grad():
            next(model.parameters()).mul_(0.5)
        push(saved(model, place / family), repo)
        assert not torch.equal(publisher.note(family, family, model), before)
    model.push_to_hub("owner/llama-model", commit_message="By the model")
    publisher.note("llama-model", "llama", model)
    for family in ("bert", "llama"):
        adapted, folder = with_adapter(family, place)
        push(folder, f"owner/{family}-adapter", private=True)
        publisher.note(f"{family}-adapter", family, adapted, adapter=True)
    merged = merged_with_a_base_on_the_hub(adapted, folder)
    push(folder, "owner/llama-merged", merge=True)
    publisher.note("llama-merged", "llama", merged)
    publisher.note("bert-trainer", "bert", by_the_trainer(place))
    whole = tiny_model(HEADS["bert"][1], num_hidden_layers=2)
    adapted, adapter = with_adapter("bert", place / "card")
    for name, model, folder in (("bert-card", whole, saved(whole, place / "card" / "bert")), ("bert-adapter-card", adapted, adapter)):
        by_the_command_line(folder, f"owner/{name}")
        publisher.note(name, "bert", model, adapter=model is adapted, by_card=True)
    (place / "plan.json").write_text(json.dumps(publisher.plan))


def by_a_recipe(family, task, place):
    """Trained and published in one command."""
    folder = place / f"{family}-recipe"
    flags = ("--output_dir", str(folder), "--results_dir", str(place / "results"), "--push_to_hub", f"owner/{family}-recipe")
    assert train([str(task_base(task).with_name("annealed.yaml")), *tiny(*flags, task=task)]) == 0
    model = getattr(transformers, HEADS[family][0]).from_pretrained(folder)
    side = getattr(model.config, "image_size", None)
    return model, {"pixel_values": torch.randn(2, 3, side, side)} if side else {"input_ids": torch.randint(5, 40, (2, 7))}


def by_the_command_line(folder, repo):
    """With a card that was written before there was a repository."""
    (folder / "results.json").write_text(json.dumps(RESULTS))
    tokenizer().save_pretrained(folder)
    assert command(["card", str(folder), "--overwrite"]) == 0
    assert command(["push", str(folder), repo, "--private", "--message", "Better"]) == 0


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
    trainer.push_to_hub()
    return trainer.model


if __name__ == "__main__":
    main(Path(sys.argv[1]))
