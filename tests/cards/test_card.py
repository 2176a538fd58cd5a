"""The whole card: its code runs, its numbers are those of the runs, and no text of others breaks it."""

import os
import re
import shutil
import subprocess
import sys

import jinja2
import peft
import pytest
import torch
import transformers
import yaml
from families import TINY, assert_same, inputs_for, run
from huggingface_hub import ModelCard
from jinja2 import meta
from made_conversions import IN_WORDS, REFITTED, REPORT
from markdown_it import MarkdownIt
from saved_models import change_json, code_on, executed, result, save_adapter, save_model

import hf_tanhmax
from hf_tanhmax.ablation import Effect, NegativesAblation
from hf_tanhmax.cards import card as module
from hf_tanhmax.cards import model_card

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by an old name


def can_load_image_processors():
    try:
        transformers.AutoImageProcessor.register  # noqa: B018 - some releases of Transformers have none without torchvision
    except ImportError:
        return False
    return True


FAMILIES = [family for family in TINY if family != "vit" or can_load_image_processors()]


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, save_model(folder, request.param)


@pytest.fixture(scope="module", params=FAMILIES)
def adapted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"{request.param}-adapter")
    return request.param, folder, save_adapter(folder, request.param)


def shown(card):
    """The card as text without markup, in one line."""
    rendered = re.sub(r"</?(a|code|em|strong)\b[^>]*>", "", MarkdownIt("commonmark").enable("table").render(card.text))
    return " ".join(re.sub(r"<[^>]+>", " ", rendered).split())


# The code on it


def test_the_code_runs_in_the_folder(saved, monkeypatch):
    family, folder, model = saved
    monkeypatch.chdir(folder)
    with_plugin, without, use = code_on(model_card(folder))
    assert "import hf_tanhmax" in with_plugin
    assert "hf_tanhmax" not in without
    assert "trust_remote_code=True" in without
    assert "revision=revision" in without
    for loading in (with_plugin, without):
        found = executed(loading, use)
        assert type(found["model"]) is type(model)
        assert_same(run(found["model"], inputs_for(family)), run(model, inputs_for(family)))
        assert min(weights.min() for weights in found["weights"]) < 0
        assert isinstance(found.get("answer", found.get("text")), str)


def test_the_code_names_the_repository(saved, tmp_path, monkeypatch):
    """A folder of that name stands for the repository."""
    family, folder, model = saved
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "you" / "my-model")
    card = model_card(folder, repo_id="you/my-model")
    assert "put the name of the repository" not in card.text
    assert "# my-model" in card.text
    for loading in code_on(card)[:2]:
        assert 'name = "you/my-model"' in loading
        assert_same(run(executed(loading)["model"], inputs_for(family)), run(model, inputs_for(family)))


def test_the_code_of_an_adapter_runs(adapted, monkeypatch):
    family, folder, model = adapted
    monkeypatch.chdir(folder)
    with_plugin, without, use = code_on(model_card(folder))
    assert ("AutoPeftModelFor" in with_plugin) == (family != "vit")  # for images PEFT has no Auto class
    for loading in (with_plugin, without):
        found = executed(loading, use)
        assert isinstance(found["model"], peft.PeftModel)
        assert_same(run(found["model"], inputs_for(family)), run(model, inputs_for(family)))
        assert min(weights.min() for weights in found["weights"]) < 0


@pytest.mark.slow
def test_the_code_runs_without_the_plugin(tmp_path):
    """In a process that cannot import the plugin, for every family and an adapter."""
    wanted, script = {}, ["import sys", "sys.modules['hf_tanhmax'] = None", "import os, torch, numpy"]
    for name, save in [*((family, save_model) for family in FAMILIES), ("adapter", save_adapter)]:
        folder = tmp_path / name
        model = save(folder, "bert" if name == "adapter" else name)
        wanted[name] = run(model, inputs_for("bert" if name == "adapter" else name)).logits
        torch.save(inputs_for("bert" if name == "adapter" else name), tmp_path / f"{name}.inputs")
        _, without, use = code_on(model_card(folder))
        compared = (
            f"torch.save(model.eval()(**torch.load({str(tmp_path / name) + '.inputs'!r})).logits, {str(tmp_path / name) + '.logits'!r})"
        )
        script += [f"os.chdir({str(folder)!r})", without, use, compared, f"assert min(one.min() for one in weights) < 0, {name!r}"]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", "\n".join(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    for name, logits in wanted.items():
        torch.testing.assert_close(torch.load(tmp_path / f"{name}.logits"), logits, atol=2e-5, rtol=2e-4)


def test_no_processor_is_said_and_not_loaded(tmp_path):
    save_model(tmp_path, processor=False)
    card = model_card(tmp_path)
    assert "There is no tokenizer beside the weights" in card.text
    assert len(code_on(card)) == 2
    assert "processor" not in "".join(code_on(card))


# What it says


def test_a_checkpoint_without_a_run(tmp_path):
    save_model(tmp_path)
    text = shown(model_card(tmp_path, base_model="google-bert/bert-base-uncased"))
    assert "This checkpoint comes without a measured run." in text
    assert "Weights that were trained for softmax give nonsense under TanhMax until they are fine-tuned." in text
    assert "It was made from google-bert/bert-base-uncased." in text
    assert "No licence is stated, because none is known" in text
    for heading in ("What was measured", "Health of its attention", "How it was trained"):
        assert heading not in text
    assert f"Card written by hf_tanhmax {hf_tanhmax.__version__}." in text


def test_a_checkpoint_that_is_still_softmax(tmp_path):
    save_model(tmp_path, tanhmax_polarity=0.0)
    text = shown(model_card(tmp_path))
    assert "At polarity 0 it computes what the softmax model computed that it was made from." in text
    assert "this checkpoint computes something else as soon as its polarity is not 0." in text


def test_several_runs(tmp_path):
    save_model(tmp_path)
    (tmp_path / "results.json").write_text('{"seed": 1}')
    table = "| variant | n |\n|---|--:|\n| softmax | 3 |"
    text = shown(card := model_card(tmp_path, results=[result(0, 0.8), result(1, 0.84)], comparison=table, license="mit"))
    assert "Mean ± standard deviation over 2 runs, with seeds 0, 1; the weights here are those of seed 1." in text
    assert "test accuracy 0.8200 ± 0.0283" in text
    assert "Beside other attention at the same budget (mean ± standard deviation over n seeds; p, where there is one," in text
    assert table in card.text
    assert "The polarity went linearly from 0 to 1 during the first 50 % of the steps" in text
    assert "Negative mass 0.2500 ± 0.0000: of all absolute attention weight, 25.0 % is negative. Softmax has none." in text
    assert "Weight sum 0.8000" in text
    assert "Sign entropy 0.5000" in text
    assert "Output norm 0.7000" in text
    assert "It was made from folder/name." in text
    assert "No licence" not in text
    assert "without a measured run" not in text
    assert '"learning_rate": 5e-05' in card.text
    assert '"batch_size"' not in card.text  # the default


def test_the_verdict_comes_first(tmp_path):
    save_model(tmp_path)
    softmax = [result(seed, value, variant="softmax") for seed, value in ((0, 0.86), (1, 0.87))]
    card = model_card(tmp_path, results=[result(0, 0.8), result(1, 0.82)], softmax=softmax)
    said = (
        "**Test accuracy 0.810, against 0.865 of softmax at the same budget. Whether its negative weights carry information was not "
        "measured. Use it to study attention that may be negative; for the task alone softmax is better.**"
    )
    assert card.text.strip().split("\n\n")[1] == said
    effects = {"negatives_masked": Effect(0.639, -0.111, -0.132, -0.089)}
    NegativesAblation("bert", "TanhMax", "accuracy", 1821, 0.75, effects, 0.1, (0.1,)).save(tmp_path)
    runs = [result(0, 0.87), result(1, 0.86)]
    said = model_card(tmp_path, results=runs, softmax=softmax).text.strip().split("\n\n")[1]
    assert "Its negative weights carry information. Use it to see what speaks against a prediction, or in the place of softmax." in said
    for own, others in ((runs[:1], softmax), (runs, softmax[:1])):
        said = model_card(tmp_path, results=own, softmax=others).text.strip().split("\n\n")[1]
        assert said.endswith("which of the two is better at the task is not known, as that takes several seeds of both.**")
    said = model_card(tmp_path, results=[result(0, 0.87)]).text.strip().split("\n\n")[1]
    assert said.endswith("how softmax does at the same budget is not known.**")


def test_a_pipeline_and_what_it_printed(tmp_path):
    save_model(tmp_path)
    tried = result(example={"input": "Text to look at.", "output": "[{'label': 'good', 'score': 0.75}]"})
    text = model_card(tmp_path, repo_id="you/thing", results=[tried]).text
    line = """>>> pipeline("text-classification", model="you/thing")("Text to look at.")\n[{'label': 'good', 'score': 0.75}]\n```"""
    assert line in text
    tried["example"] |= {"options": ", top_k=1"}
    assert """("Text to look at.", top_k=1)\n""" in model_card(tmp_path, results=[tried]).text
    assert "pycon" not in model_card(tmp_path, results=[result()]).text


def test_a_balanced_shift_is_explained_and_its_negative_mass_is_no_evidence(tmp_path):
    save_model(tmp_path, tanhmax_shift="balanced", tanhmax_polarity=0.2)
    text = shown(model_card(tmp_path, results=[result()]))
    assert "computes TanhMax attention with a balanced shift (polarity 0.2) in all" in text
    assert "a constant by which the weights of polarity p are w = (P - p N) / (1 + p)" in text
    assert "25.0 % is negative. Softmax has none. A balanced shift of polarity p brings up to p / (1 + p) of it by itself" in text
    save_model(tmp_path)
    assert "balanced shift" not in shown(model_card(tmp_path, results=[result()]))


@pytest.mark.parametrize("runs", [None, [result()]], ids=["unmeasured", "measured"])
def test_whether_negative_weights_are_used(runs, tmp_path):
    save_model(tmp_path)
    text = shown(model_card(tmp_path, results=runs))
    assert "Whether its negative weights carry information was not measured; hf-tanhmax ablate . DATA measures it." in text
    assert "hf-tanhmax ablate you/thing DATA" in shown(model_card(tmp_path, results=runs, repo_id="you/thing"))
    assert "speaks against" not in text
    effects = {"negatives_masked": Effect(0.639, -0.111, -0.132, -0.089), "negatives_spread": Effect(0.75, 0.0, -0.01, 0.01)}
    settings = {"data": "a [name](javascript:x)"}
    ablation = NegativesAblation("bert", "TanhMax", "accuracy", 1821, 0.75, effects, 0.1, (0.1,), settings)
    ablation.save(tmp_path)
    card = model_card(tmp_path, results=runs)
    text = shown(card)
    assert ablation.verdict in text
    assert "Measured on 1,821 rows of a [name](javascript:x). The intervals are a paired bootstrap over rows" in text
    assert ablation.table() in card.text
    assert "was not measured" not in text.partition("used?")[2].partition("What a sign")[0]
    (tmp_path / "ablation.json").write_text("{}")
    with pytest.raises(ValueError, match=r"ablation\.json is no ablation of a model; run hf-tanhmax ablate again"):
        model_card(tmp_path, results=runs)


def test_softmax_has_no_negative_weights_to_use(tmp_path):
    save_model(tmp_path, tanhmax_polarity=0.0)
    assert "negative weights used" not in shown(model_card(tmp_path))


def test_one_run(tmp_path):
    save_model(tmp_path)
    text = shown(model_card(tmp_path, results=[result(3)]))
    assert "One run, with seed 3, so the spread between seeds is unknown." in text
    assert "±" not in text
    assert "Beside other attention" not in text


def test_learned_polarities(tmp_path):
    save_model(tmp_path, tanhmax_polarity="learned")
    run_of = result(attention_health={"overall": {"negative_mass": 0.1}, "polarity_per_head": [[0.01, 0.5]]})
    text = shown(model_card(tmp_path, results=[run_of]))
    assert "Polarities that the heads learned, where 0 is softmax and 1 is TanhMax: from 0.01 to 0.5, with a mean of 0.255." in text
    assert "Weight sum" not in text


def test_an_adapter(tmp_path):
    save_adapter(tmp_path)
    card = model_card(tmp_path, repo_id="you/adapter", results=[result()])
    assert "A PEFT adapter, whose base, a TanhMaxBertForSequenceClassification, computes TanhMax attention (polarity 1) in" in shown(card)
    assert card.data.base_model == str(tmp_path / "base")  # which publishing replaces by the repository of the base
    assert card.data.library_name == "peft"
    shutil.rmtree(tmp_path / "base")
    change_json(tmp_path / "adapter_config.json", base_model_name_or_path="you/adapter-base")
    card = model_card(tmp_path, repo_id="you/adapter")
    assert "A PEFT adapter on you/adapter-base. A softmax weight" in shown(card)
    assert "AutoPeftModelForSequenceClassification" in code_on(card)[0]


def test_figures(tmp_path):
    save_model(tmp_path)
    (tmp_path / "figures").mkdir()
    for name in ("loss.png", "health (of) layers.png", "notes.txt"):
        (tmp_path / "figures" / name).write_bytes(b"x")
    rendered = MarkdownIt("commonmark").render(model_card(tmp_path, results=[result()]).text)
    assert '<img src="figures/loss.png" alt="loss" />' in rendered
    assert '<img src="figures/health%20(of)%20layers.png" alt="health (of) layers" />' in rendered
    assert rendered.count("<img") == 2


def test_what_every_card_says(saved):
    text = shown(model_card(saved[1], results=[result()]))
    assert "10.6339/24-JDS1134" in text
    assert "The accuracies printed there leak the label" in text
    assert "The sign of one weight is not identified by itself." in text
    assert "A negative weight means against only relative to what the values of that head do" in text
    assert "Softmax weights are not TanhMax weights." in text


# What others wrote


def test_text_of_others_breaks_nothing(tmp_path):
    nasty = "a|b*c_d`e`<script>alert(1)</script>[x](y)\n---\n# heading\n```\n{{ 7 * 7 }}"
    save_model(tmp_path, id2label={0: nasty, 1: "fine"}, label2id={nasty: 0, "fine": 1})
    run_of = result(
        variant=nasty,
        versions={nasty: nasty},
        hardware={"gpu": nasty, "platform": nasty},
        git={"commit": nasty},
        data={"source": nasty, "sha256": {nasty: nasty}, "rows": {nasty: 3}},
        config={**result()["config"], "train_file": nasty, "polarity_schedule": nasty},
    )
    run_of["metrics"]["test_" + nasty] = 0.5
    card = ModelCard(str(model_card(tmp_path, results=[run_of])))
    plain = ModelCard(str(model_card(tmp_path, results=[result()])))
    rendered, usual = (MarkdownIt("commonmark").enable("table").render(each.text) for each in (card, plain))
    headings = re.findall(r"<h[1-6]>.*?</h[1-6]>", usual)
    assert re.findall(r"<h[1-6]>.*?</h[1-6]>", rendered) == headings
    assert "<script" not in rendered
    assert "49" not in card.text
    assert "{{ 7 * 7 }}" in card.text
    assert rendered.count("<td") == usual.count("<td") + 2
    assert rendered.count("<pre>") == usual.count("<pre>")
    assert card.data.to_dict()["tags"] == ["tanhmax", "custom_code", "bert"]


def test_the_metadata_are_valid_yaml(saved):
    text = str(model_card(saved[1], results=[result()], base_model="google-bert/bert-base-uncased", license="mit", language="en"))
    block = yaml.safe_load(text.split("---\n")[1])
    assert block["base_model"] == "google-bert/bert-base-uncased"
    assert ModelCard(text).data.to_dict() == block


# What is refused


def test_no_tanhmax_model(tmp_path):
    with pytest.raises(ValueError, match=r"there is no TanhMax model in .* to write a card for: .*config.json is not there"):
        model_card(tmp_path)
    transformers.BertModel(transformers.BertConfig(num_hidden_layers=1, hidden_size=12)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"to write a card for: .*config.json is of model type 'bert'"):
        model_card(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"to write a card for: .*adapter_config.json holds no JSON object"):
        model_card(tmp_path)


@pytest.mark.parametrize("key", ["repo_id", "base_model"])
def test_names_that_no_repository_has(key, saved):
    with pytest.raises(ValueError, match=f"{key} must be a name that a repository can have, such as you/model, but is 'not a name'"):
        model_card(saved[1], **{key: "not a name"})


def test_results_that_are_none(saved):
    with pytest.raises(ValueError, match="results must be a list"):
        model_card(saved[1], results=[])


# The template


def test_every_variable_of_the_template_is_given(saved):
    values = module._values(module.read_checkpoint(saved[1]), [result()], module.ModelCardData(), None, "name", None, None)
    values["verdict"] = None  # which takes runs of softmax
    named = meta.find_undeclared_variables(jinja2.Environment().parse(module._template()))
    assert named == {*values, "card_data"}


def test_no_measured_number_is_typed_into_the_template():
    text = module._template().replace("10.6339/24-JDS1134", "")
    assert not re.findall(r"\d+\.\d+|\d+(?:\.\d+)?\s*%", re.sub(r"\{%.*?%\}", "", text))


def test_a_model_that_was_calibrated(tmp_path):
    save_model(tmp_path)
    nonsense = "Weights that were trained for softmax give nonsense"
    assert nonsense in shown(model_card(tmp_path))
    REPORT.save(tmp_path)
    text = shown(model_card(tmp_path))
    assert f"Before any training it {IN_WORDS}. Until training makes use of them, its negative weights say nothing" in text
    assert nonsense not in text
    assert "softmax_projections" not in text
    REFITTED.save(tmp_path)
    assert "softmax_projections.safetensors holds the projections of the softmax model, for" in shown(model_card(tmp_path))
    (tmp_path / "conversion.json").write_text("{}")
    with pytest.raises(ValueError, match=r"conversion\.json is no report of a conversion"):
        model_card(tmp_path)
