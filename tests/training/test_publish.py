"""From a recipe to strangers: trained and published in one command, then loaded with the plugin and without it, to the bit."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from loopback.fixture import hub, hub_environment, hub_here, run_script  # noqa: F401
from loopback.server import OWNER_TOKEN
from safetensors.torch import save_file

READER = Path(__file__).parents[1] / "helpers" / "reader.py"
FAMILIES = {
    "bert": ("bert/text_classification", "AutoModelForSequenceClassification"),
    "vit": ("vit/image_classification", "AutoModelForImageClassification"),
    "llama": ("llama/causal_lm", "AutoModelForCausalLM"),
}


def inputs_of(model):
    if model.config.model_type == "tanhmax_vit":
        side = model.config.image_size
        return {"pixel_values": torch.randn(2, 3, side, side)}
    return {"input_ids": torch.randint(5, 40, (2, 7))}


@pytest.mark.slow
def test_one_command_trains_and_publishes_what_anyone_can_load(hub_here, train, tmp_path):  # noqa: F811
    plan, expected = [], {}
    for family, (task, auto) in FAMILIES.items():
        code, said, results = train("annealed", "--push_to_hub", f"owner/{family}", task=task, folder=family)
        assert code == 0, said
        assert f"published: {hub_here.url}/owner/{family}/commit/" in said
        assert OWNER_TOKEN not in said + json.dumps(results)
        model = getattr(transformers, auto).from_pretrained(tmp_path / family).eval()
        inputs = inputs_of(model)
        with torch.no_grad():
            expected |= {f"{family}.logits": model(**inputs).logits, **{f"{family}.inputs.{key}": value for key, value in inputs.items()}}
        plan.append({"name": family, "repo": f"owner/{family}", "auto": auto})
        files = hub_here.files(f"owner/{family}")
        assert {"README.md", "config.json", "model.safetensors", "modeling_tanhmax.py", "results.json", "figures/health.png"} <= set(files)
        assert not {name for name in files if name.startswith("checkpoint") or name.endswith((".bin", ".pt")) or name == "recipe.json"}
        assert str(tmp_path).encode() not in b"".join(files.values())
        card = ModelCard(files["README.md"].decode())
        assert card.data.library_name == "transformers"
        assert {"tanhmax", "custom_code"} <= set(card.data.tags)
        assert card.data.eval_results
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, tmp_path / "expected.safetensors")
    for role, home in (("plugin", "one"), ("plain", "other")):
        run_script(READER, str(tmp_path), role, environment=hub_environment(hub_here, tmp_path / home))
        loaded = json.loads((tmp_path / f"{role}.json").read_text())["loaded"]
        assert all(found["same"] for found in loaded.values()), loaded
        origin = "hf_tanhmax" if role == "plugin" else "transformers_modules"
        assert {found["module"].split(".")[0] for found in loaded.values()} == {origin}


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
