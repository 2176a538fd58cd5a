"""Convert, push, card and doctor from the command line, in this process."""

import json
import random
import re

import pytest
import torch
import transformers
from families import TINY, assert_same, inputs_for, run, tiny_model
from huggingface_hub import ModelCard
from image_processors import load_images
from PIL import Image
from saved_models import HEADS, processor_for, result, save_model

import hf_tanhmax
from hf_tanhmax.cli import commands
from hf_tanhmax.cli.arguments import main
from hf_tanhmax.cli.input_files import read_inputs
from hf_tanhmax.conversion.refitting import _Run
from hf_tanhmax.conversion.report import read_report
from hf_tanhmax.doctor import check_checkpoint
from hf_tanhmax.hub import HubError
from hf_tanhmax.training.configuration.schema import ROOT
from hf_tanhmax.training.train import main as train

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by an old name
UPSTREAM = {"bert": "BertForSequenceClassification", "vit": "ViTForImageClassification", "llama": "LlamaForCausalLM"}
TINY_RUN = ["--synthetic_documents", "220", "--synthetic_vocabulary", "43", "--synthetic_polar", "14", "--batch_size", "14"]
TINY_RUN += [
    "--max_steps",
    "3",
    "--logging_steps",
    "1",
    "--save_steps",
    "3",
    "--max_length",
    "17",
    "--use_cpu",
    "true",
    "--results_dir",
    "all",
]


@pytest.fixture
def softmax(tmp_path):
    """Write a softmax checkpoint; returns its folder and the model."""

    def of(family, *, processor=True, cls=None, **changes):
        model = tiny_model(getattr(transformers, cls or UPSTREAM[family]), **changes)
        model.save_pretrained(tmp_path / "softmax")
        if processor:
            processor_for(family).save_pretrained(tmp_path / "softmax")
        return str(tmp_path / "softmax"), model

    return of


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


# convert


@pytest.mark.parametrize("family", TINY)
def test_convert(family, softmax, tmp_path, capsys):
    source, model = softmax(family, processor=family != "vit")
    out = tmp_path / "out"
    assert main(["convert", source, str(out), "--polarity", "0"]) == 0
    printed = capsys.readouterr().out
    assert (
        f"{source} is a TanhMax{UPSTREAM[family]} with TanhMax attention at polarity 0, which computes softmax, in all 3 layers" in printed
    )
    assert f"{model.num_parameters():,} parameters, in {out}" in printed
    assert "fine-tune" not in printed
    converted = getattr(transformers, HEADS[family]).from_pretrained(out)
    assert_same(run(converted, inputs_for(family)), run(model, inputs_for(family)))
    assert not [finding for finding in check_checkpoint(out) if finding.level != "ok" and family != "vit"]
    card = ModelCard.load(out / "README.md")
    assert card.data.base_model is None  # a folder is not a name on the Hub
    assert "without a measured run" in card.text


def test_the_tokenizer_comes_along(softmax, tmp_path, capsys):
    source, _ = softmax("bert")
    assert main(["convert", source, str(tmp_path / "out")]) == 0
    assert "its tokenizer is there too" in capsys.readouterr().out
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("not funny")["input_ids"] == processor_for("bert")("not funny")["input_ids"]


def test_no_tokenizer_is_made_up(softmax, tmp_path, capsys):
    """Transformers makes a BERT tokenizer without any words where there are no files."""
    source, _ = softmax("bert", processor=False)
    assert main(["convert", source, str(tmp_path / "out")]) == 0
    assert f"no tokenizer was saved, as {source} has none" in capsys.readouterr().out
    assert not (tmp_path / "out" / "tokenizer_config.json").exists()


@pytest.mark.parametrize("family", ["vit", "llama"])
def test_a_processor_that_cannot_be_loaded(family, softmax, tmp_path, capsys):
    source, _ = softmax(family, processor=False)
    assert main(["convert", source, str(tmp_path / "out")]) == 0
    noun = {"vit": "image processor", "llama": "tokenizer"}[family]
    assert f"no {noun} was saved, as that of {source} cannot be loaded here: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["--layers", "2,0", "--heads", "1", "--polarity", "0.5"], {"polarity": 0.5, "layers": (0, 2), "heads": (1,)}),
        (["--layers", "layer.2, 0"], {"layers": (0, "layer.2")}),
        (["--polarity", "learned", "--score-bias", "1.5"], {"polarity": "learned", "score_bias": 1.5}),
        (["--polarity", "0.2", "--shift", "balanced"], {"polarity": 0.2, "shift": "balanced"}),
        ([], {}),
    ],
)
def test_settings(flags, settings, softmax, tmp_path, capsys):
    source, _ = softmax("bert", processor=False)
    assert main(["convert", source, str(tmp_path / "out"), *flags]) == 0
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.tanhmax_settings == hf_tanhmax.TanhMaxSettings(**settings)
    warned = "its weights were trained for softmax: fine-tune it before use" in capsys.readouterr().out
    assert warned == (settings.get("polarity") != "learned")


def test_part_of_a_model_of_several_parts(tmp_path, capsys):
    """Layers by name, and a part that computes softmax by itself and may."""
    small = {"hidden_size": 24, "intermediate_size": 13, "num_attention_heads": 4, "num_hidden_layers": 2}
    vision, text = {**small, "image_size": 15, "patch_size": 5}, {**small, "vocab_size": 53, "projection_size": 24}
    transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path / "siglip")
    source, out = tmp_path / "siglip", tmp_path / "out"
    assert "MultiheadAttention (vision_model.head.attention) do not ask" in refused(capsys, "convert", source, out)
    assert "softmax_parts names 'Nothing'" in refused(capsys, "convert", source, out, "--softmax-parts", "Nothing")
    assert "--softmax-parts: must be numbers or names" in refused(capsys, "convert", source, out, "--softmax-parts", "a,,b")
    assert "no attention module of" in refused(capsys, "convert", source, out, "--layers", "nothing")
    given = ["--layers", "vision_model", "--softmax-parts", "MultiheadAttention", "--polarity", "0.5"]
    assert main(["convert", str(source), str(out), *given]) == 0
    said = "in the layers of vision_model (the others are softmax) and all heads, but for MultiheadAttention, which computes softmax by"
    assert said in capsys.readouterr().out
    settings = transformers.AutoConfig.from_pretrained(out).tanhmax_settings
    assert settings == hf_tanhmax.TanhMaxSettings(0.5, layers=["vision_model"], softmax_parts=["MultiheadAttention"])


@pytest.mark.parametrize("flags", [["--task", "text-classification"], ["--auto-class", "AutoModelForSequenceClassification"]])
def test_a_new_head(flags, softmax, tmp_path):
    source, _ = softmax("bert", processor=False, cls="BertModel")
    assert main(["convert", source, str(tmp_path / "out"), *flags, "--num-labels", "5"]) == 0
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert type(model) is hf_tanhmax.TanhMaxBertForSequenceClassification
    assert model.num_labels == 5


def test_nothing_is_overwritten(softmax, tmp_path, capsys):
    source, _ = softmax("bert", processor=False)
    (tmp_path / "out").mkdir()
    assert main(["convert", source, str(tmp_path / "out")]) == 0  # an empty folder is as good as a new one
    capsys.readouterr()
    before = (tmp_path / "out" / "config.json").read_text()
    said = refused(capsys, "convert", source, tmp_path / "out", "--polarity", "0")
    assert said == f"{tmp_path / 'out'} is there already and not an empty folder; name one that is new"
    assert (tmp_path / "out" / "config.json").read_text() == before
    assert refused(capsys, "convert", source, tmp_path / "out" / "config.json").endswith("name one that is new")


def test_what_cannot_be_converted(softmax, tmp_path, capsys):
    source, _ = softmax("bert", processor=False)
    out = tmp_path / "out"
    assert refused(capsys, "convert", tmp_path / "gone", out).startswith(f"cannot convert {tmp_path / 'gone'}: ")
    assert "--polarity: must be a number in [0, 1]" in refused(capsys, "convert", source, out, "--polarity", "2")
    assert "there is no layer 3" in refused(capsys, "convert", source, out, "--layers", "3")
    assert refused(capsys, "convert", source, out, "--task", "chess").startswith("there is no task 'chess'; there are feature-extraction, ")
    for name in ("AutoModelForChess", "BertModel"):
        assert refused(capsys, "convert", source, out, "--auto-class", name).startswith(f"'{name}' is no Auto class of a model; name one")
    assert not out.exists()
    save_model(tmp_path / "tanhmax", processor=False)
    assert "is a TanhMax checkpoint already (tanhmax_bert)" in refused(capsys, "convert", tmp_path / "tanhmax", out)


def test_pickled_weights_are_not_read(softmax, tmp_path, capsys):
    source, model = softmax("bert", processor=False)
    torch.save(model.state_dict(), tmp_path / "softmax" / "pytorch_model.bin")
    (tmp_path / "softmax" / "model.safetensors").unlink()
    assert "safetensors" in refused(capsys, "convert", source, tmp_path / "out")


# convert --calibrate


WORDS = ("not", "funny", "gripping", "look", "at", "all", "a", "film")


def texts(path, count=70):
    """A table of so many short texts, no two alike."""
    rows = [" ".join(WORDS[(number >> shift) % 8] for shift in (0, 1, 2, 3)) for number in range(count)]
    path.write_text("text,label\n" + "".join(f"{row},0\n" for row in rows))
    return str(path)


def test_calibrated_with_texts(softmax, tmp_path, capsys):
    source, model = softmax("bert", cls="BertModel")
    rows = texts(tmp_path / "rows.csv")
    assert (
        main(["convert", source, str(tmp_path / "out"), "--calibrate", rows, "--rows", "60", "--batch-size", "6", "--balance", "0.3"]) == 0
    )
    report = read_report(tmp_path / "out")
    printed = capsys.readouterr().out
    assert f"it {report.describe()}; fine-tune it as usual" in printed
    assert "trained for softmax" not in printed
    assert report.balance == report.alignment.balance == 0.3
    assert report.alignment.batches == 9
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    drawn = random.Random(0).sample(read_inputs(tmp_path / "rows.csv"), 70)[:60]
    lengths = [len(tokenizer(row)["input_ids"]) for row in drawn]
    assert (report.tokens, report.quality.rows) == (sum(lengths[:54]), sum(lengths[54:]))
    assert report.quality.held_out
    converted = transformers.AutoModel.from_pretrained(tmp_path / "out")
    assert converted.config.tanhmax_polarity == 1
    hf_tanhmax.set_polarity(converted, 0.0)
    assert_same(run(converted, inputs_for("bert")), run(model, inputs_for("bert")), atol=1e-4, rtol=1e-3)
    assert f"Before any training it {report.describe()}" in ModelCard.load(tmp_path / "out" / "README.md").text


@load_images
def test_calibrated_with_pictures(softmax, tmp_path):
    source, _ = softmax("vit", cls="ViTModel")
    (tmp_path / "pictures").mkdir()
    for number in range(5):
        Image.effect_noise((20, 20), 30 + 10 * number).save(tmp_path / "pictures" / f"{number}.png")
    assert main(["convert", source, str(tmp_path / "out"), "--calibrate", str(tmp_path / "pictures"), "--rows", "4"]) == 0
    report = read_report(tmp_path / "out")
    assert (report.tokens, report.quality.rows) == (3 * 10, 10)


@pytest.mark.parametrize("suffix", [".csv", ".txt"])
def test_a_language_model_is_refitted(suffix, softmax, tmp_path, capsys):
    source, model = softmax("llama", vocab_size=300)
    path = tmp_path / f"rows{suffix}"
    texts(path, 200)
    given = ["--calibrate", str(path), "--length", "8", "--rows", "40", "--balance", "0.1"]
    assert main(["convert", source, str(tmp_path / "out"), *given]) == 0
    report = read_report(tmp_path / "out")
    assert f"it {report.describe()}" in capsys.readouterr().out
    assert (report.polarity, report.shift, report.balance) == (0.1, "balanced", 0.1)
    assert report.tokens + report.quality.rows == 40 * 8
    assert report.quality.perplexity_softmax > 1
    assert report.quality.kl_after < report.quality.kl_before
    converted = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert converted.config.tanhmax_refitted_polarity["polarity"] == 0.1
    back = hf_tanhmax.to_softmax(converted, originals=tmp_path / "out" / "softmax_projections.safetensors")
    assert_same(run(back, inputs_for("llama")), run(model, inputs_for("llama")), atol=0, rtol=0)
    assert not (tmp_path / "out.partial").exists()


def test_nothing_is_promised_of_a_refit_that_stops_before_its_first_layer(softmax, tmp_path, capsys, monkeypatch):
    source, _ = softmax("llama", vocab_size=300)
    given = ["--calibrate", texts(tmp_path / "rows.csv", 200), "--length", "8", "--rows", "40"]

    def stop(self, index, count, bar):
        raise KeyboardInterrupt

    monkeypatch.setattr(_Run, "_fit", stop)
    assert main(["convert", source, str(tmp_path / "out"), *given]) == 130
    said = capsys.readouterr().err
    assert "stopped before the first layer was refitted; the same command begins again" in said
    assert "continues there" not in said
    assert not (tmp_path / "out.partial").exists()


def test_a_stopped_refit_continues(softmax, tmp_path, capsys, monkeypatch):
    source, _ = softmax("llama", vocab_size=300)
    given = ["--calibrate", texts(tmp_path / "rows.csv", 200), "--length", "8", "--rows", "40"]
    fit, fitted = _Run._fit, []

    def stop_at_the_second(self, index, count, bar):
        if index == 1:
            raise KeyboardInterrupt
        fitted.append(index)
        return fit(self, index, count, bar)

    monkeypatch.setattr(_Run, "_fit", stop_at_the_second)
    assert main(["convert", source, str(tmp_path / "out"), *given]) == 130
    assert "the layers that were refitted are in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "out.partial" / "mine").write_text("stays")
    monkeypatch.setattr(_Run, "_fit", lambda self, index, *others: fitted.append(index) or fit(self, index, *others))
    assert main(["convert", source, str(tmp_path / "out"), *given]) == 0
    assert fitted == [0, 1, 2]
    assert main(["convert", source, str(tmp_path / "whole"), *given]) == 0
    one, other = (transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("out", "whole"))
    assert_same(run(one, inputs_for("llama")), run(other, inputs_for("llama")), atol=0, rtol=0)
    assert [path.name for path in (tmp_path / "out.partial").iterdir()] == ["mine"]


def test_too_little_memory(softmax, tmp_path, capsys, monkeypatch):
    source, _ = softmax("bert")

    def lack(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(transformers.BertModel, "forward", lack)
    said = refused(capsys, "convert", source, tmp_path / "out", "--calibrate", texts(tmp_path / "rows.csv"))
    assert re.search(r"a batch of 6 x 6 does not fit into memory; .*: CUDA out of memory; take a lower --batch-size or --length", said)


def test_what_cannot_be_calibrated(softmax, tmp_path, capsys):
    rows, out = tmp_path / "rows.txt", tmp_path / "out"
    rows.write_text("not funny at all\n")
    source, _ = softmax("bert", processor=False)
    assert "--calibrate needs its tokenizer, but" in refused(capsys, "convert", source, out, "--calibrate", rows)
    processor_for("bert").save_pretrained(source)
    rows.write_text("a\n")
    assert "7 are needed at least to fit" in refused(capsys, "convert", source, out, "--calibrate", rows)
    assert not out.exists()


# doctor


def test_doctor_of_a_checkpoint(tmp_path, capsys):
    save_model(tmp_path)
    assert main(["doctor", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "TanhMaxBertForSequenceClassification with TanhMax attention (polarity 1) in all 3 layers and all heads" in printed
    assert printed.endswith("\nno errors, no warnings\n")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert main(["doctor", str(tmp_path)]) == 1
    assert "1 error, no warnings" in capsys.readouterr().out


def test_a_warning_is_no_failure(tmp_path):
    save_model(tmp_path, processor=False)
    assert main(["doctor", str(tmp_path)]) == 0


def test_doctor_of_the_environment(capsys):
    assert main(["doctor"]) == 0
    assert "a tiny attention call agrees with the reference" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["doctor", "gone"], ["card", "gone"], ["push", "gone", "you/model"]])
def test_a_folder_that_is_not_there(arguments, capsys):
    assert refused(capsys, *arguments) == "gone is not a folder; name one that a model was saved to"


# card


def test_card_of_a_run(tmp_path, capsys):
    save_model(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(result(3)))
    assert main(["card", str(tmp_path), "--repo", "you/my-model", "--license", "mit", "--language", "en", "--base-model", "org/name"]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'README.md'}\n"
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.language, card.data.base_model) == ("mit", "en", "org/name")
    assert "One run, with seed 3" in card.text
    assert 'name = "you/my-model"' in card.text
    assert not card.data.eval_results
    assert main(["card", str(tmp_path), "--dataset", "stanfordnlp/sst2", "--overwrite"]) == 0
    card = ModelCard.load(tmp_path / "README.md")
    assert {found.dataset_type for found in card.data.eval_results} == {"stanfordnlp/sst2"}
    assert "files of the author that hold `stanfordnlp/sst2`" in card.text


def test_card_of_an_unmeasured_checkpoint(tmp_path, capsys):
    save_model(tmp_path)
    assert main(["card", str(tmp_path), "--out", str(tmp_path / "card.md")]) == 0
    assert capsys.readouterr().out.startswith(
        f"wrote {tmp_path / 'card.md'}, which says that nothing was measured: there is no results.json"
    )
    assert "without a measured run" in (tmp_path / "card.md").read_text()
    assert not (tmp_path / "README.md").exists()


def test_results_of_several_seeds(tmp_path):
    save_model(tmp_path)
    (tmp_path / "one.json").write_text(json.dumps(result(0, 0.8)))
    (tmp_path / "others.json").write_text(json.dumps({"runs": [result(1, 0.84), result(2, 0.88)]}))
    assert main(["card", str(tmp_path), "--results", str(tmp_path / "one.json"), str(tmp_path / "others.json")]) == 0
    assert "over 3 runs, with seeds 0, 1, 2" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_a_table_beside_others(tmp_path):
    save_model(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(result(0)))
    softmax = result(0, 0.9, variant="softmax", attention="softmax")
    (tmp_path / "softmax.json").write_text(json.dumps(softmax))
    assert main(["card", str(tmp_path), "--compare_with", str(tmp_path / "softmax.json")]) == 0
    card = (tmp_path / "README.md").read_text()
    assert "| annealed | 1 |" in card
    assert "| softmax  | 1 |" in card
    assert "0.9000" in card


def test_a_card_that_is_there_stays(tmp_path, capsys):
    save_model(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    said = refused(capsys, "card", tmp_path)
    assert said == f"{tmp_path / 'README.md'} is there already; add --overwrite to replace it, or name another file with --out"
    assert (tmp_path / "README.md").read_text() == "mine"
    assert main(["card", str(tmp_path), "--overwrite"]) == 0
    assert "TanhMax" in (tmp_path / "README.md").read_text()


def test_cards_that_cannot_be(tmp_path, capsys):
    assert "there is no TanhMax model in" in refused(capsys, "card", tmp_path)
    save_model(tmp_path, processor=False)
    assert refused(capsys, "card", tmp_path, "--repo", "not a name").startswith("repo_id must be a name that a repository can have")
    assert refused(capsys, "card", tmp_path, "--results", tmp_path / "gone.json").startswith(
        f"cannot read results from {tmp_path / 'gone.json'}"
    )
    assert refused(capsys, "card", tmp_path, "--dataset", "a/b/c").startswith("dataset must be a name that a repository can have")
    said = refused(capsys, "card", tmp_path, "--dataset", "imdb")
    assert said == f"--dataset says what was measured on, but there is no results.json in {tmp_path} and no --results"
    (tmp_path / "broken.json").write_text("{")
    assert refused(capsys, "card", tmp_path, "--results", tmp_path / "broken.json").startswith("cannot read results from")
    (tmp_path / "results.json").write_text("[]")
    assert "results must be a list of what recipes.train writes" in refused(capsys, "card", tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(result()))
    said = refused(capsys, "card", tmp_path, "--compare_with", tmp_path / "broken.json")
    assert said.startswith(f"cannot compare the results: {tmp_path / 'broken.json'} is not JSON")
    assert not (tmp_path / "README.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["annealed", "lora"])
def test_the_folder_of_a_run(variant, tmp_path, monkeypatch):
    """What a recipe leaves behind has no faults and gets its card, adapters too."""
    monkeypatch.chdir(tmp_path)
    start = []
    if variant == "lora":
        save_model("base-model", "bert", "AutoModel")
        start = ["--model_name_or_path", "base-model"]
    sizes = [] if start else ["--num_layers", "1", "--hidden_size", "10", "--num_heads", "2"]
    assert train([str(ROOT / f"bert/text_classification/{variant}.yaml"), "--output_dir", "run", *TINY_RUN, *sizes, *start]) == 0
    assert main(["doctor", "run"]) == 0
    assert main(["card", "run", "--repo", "you/my-model", "--overwrite"]) == 0
    card = (tmp_path / "run" / "README.md").read_text()
    assert "during the first 50 % of the steps" in card
    assert "![" in card
    assert ("AutoPeftModelForSequenceClassification" in card) == (variant == "lora")


# push; what it does with a Hub is in tests/hub/test_publishing.py


def test_push_passes_everything_on(tmp_path, monkeypatch, capsys):
    asked = {}

    def push(folder, repo, **options):
        asked.update(folder=folder, repo=repo, **options)
        return "https://hub/commit"

    monkeypatch.setattr(commands, "push", push)
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    assert main(["push", str(tmp_path), "you/model"]) == 0
    assert asked == {"folder": str(tmp_path), "repo": "you/model", "private": None, "revision": None, "message": None, "merge": False}
    assert main(["push", str(tmp_path), "you/model", "--private", "--revision", "next", "--message", "Better", "--merge"]) == 0
    assert asked == {"folder": str(tmp_path), "repo": "you/model", "private": True, "revision": "next", "message": "Better", "merge": True}
    assert capsys.readouterr().out == "https://hub/commit\n" * 2


def test_push_kernel_passes_everything_on(monkeypatch, capsys):
    asked = []

    def push_kernel(repo, **options):
        asked.append((repo, options))
        if options["message"] == "no":
            raise HubError("the Hub says no")
        return "https://hub/commit"

    monkeypatch.setattr(commands, "push_kernel", push_kernel)
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    assert main(["push-kernel", "you/kernel"]) == 0
    assert main(["push-kernel", "you/kernel", "--private", "--message", "Better"]) == 0
    assert asked == [("you/kernel", {"private": None, "message": None}), ("you/kernel", {"private": True, "message": "Better"})]
    assert capsys.readouterr().out == "https://hub/commit\n" * 2
    assert refused(capsys, "push-kernel", "you/kernel", "--message", "no") == "the Hub says no"


def test_a_kernel_in_a_folder(tmp_path, capsys):
    out = tmp_path / "kernel"
    assert main(["push-kernel", "you/kernel", "--out", str(out)]) == 0
    builds = "torch-cpu, torch-cuda, torch-metal, torch-rocm, torch-xpu"
    assert capsys.readouterr().out == f"wrote a kernel repository to {out}: {builds}; LOCAL_KERNELS=you/kernel={out} loads it from there\n"
    assert main(["doctor", str(out)]) == 0
    assert "ok       build/torch-cpu    is exactly what this version writes" in capsys.readouterr().out
    (out / "build" / "torch-xpu" / "tanhmax.py").write_text("")
    assert main(["doctor", str(out)]) == 1
    assert "error    build/torch-xpu    tanhmax.py differs from its digest; do not load it" in capsys.readouterr().out


def test_what_the_hub_refuses_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    save_model(tmp_path, processor=False)
    assert refused(capsys, "push", tmp_path, "you/model") == "nobody is logged in: run `hf auth login`, set HF_TOKEN, or pass a token"
