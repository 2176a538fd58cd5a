"""hf-tanhmax explain, faithfulness, ablate and rank-collapse, from small checkpoints to files."""

import hashlib
import json

import numpy as np
import pytest
import torch
from families import tiny_model
from image_processors import load_images
from PIL import Image
from saved_models import processor_for, save_model
from transformers import BertForSequenceClassification
from walked import DECODER, Walked

from hf_tanhmax.cli import explain_commands
from hf_tanhmax.cli.arguments import main
from hf_tanhmax.interpret import METHODS, ablate_negatives, explain, explain_whole_generation, load_explanation, read_ablation
from hf_tanhmax.interpret.inputs.loading import load
from hf_tanhmax.interpret.viz import page

TEXT = "not funny at all"
QUICK = ("--methods", "weights,oriented,contributions,rollout")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of tiny checkpoints, and a picture."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("bert", "vit", "llama"):
        save_model(folder / family, family)
    softmax = tiny_model(BertForSequenceClassification)
    softmax.save_pretrained(folder / "softmax")
    processor_for("bert").save_pretrained(folder / "softmax")
    Image.linear_gradient("L").resize((15, 15)).convert("RGB").save(folder / "picture.png")
    (folder / "rows.csv").write_text("sentence,label\nnot funny at all,0\na gripping film,1\n")
    return folder


def done(capsys, *arguments):
    """What a command that went well printed."""
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    """The sentence about a mistake."""
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def test_a_page(models, tmp_path, capsys):
    printed = done(capsys, "explain", "--model", models / "bert", "--text", TEXT, "--out", tmp_path / "page.html", *QUICK)
    assert f"wrote {tmp_path / 'page.html'}: “LABEL_" in printed
    text = (tmp_path / "page.html").read_text()
    assert "Content-Security-Policy" in text
    assert '"funny"' in text


def test_a_page_of_several_texts_with_their_classes_and_a_twin(models, tmp_path, capsys):
    """A page of a classifier has its most probable classes; numbers have what was asked for, and the twin."""
    given = ("explain", "--model", models / "bert", "--twin", models / "softmax", "--text", TEXT, "a film", *QUICK)
    printed = done(capsys, *given, "--out", tmp_path / "page.html")
    assert ", and 1 more texts" in printed
    text = (tmp_path / "page.html").read_text()
    data = json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert data["texts"] == [[0, 1], [2, 3]]
    assert {one["target"] for one in data["explanations"]} == {"LABEL_0", "LABEL_1"}
    assert [one["twin"] for one in data["explanations"]] == [4, 5, 6, 7, None, None, None, None]
    assert data["explanations"][0]["probability"] >= data["explanations"][1]["probability"]
    done(capsys, *given, "--target", "1", "LABEL_0", "--out", tmp_path / "a.json")
    told = json.loads((tmp_path / "a.json").read_text())
    assert [one["target"] for one in told] == [1, 0, 1, 0]
    assert [one["twin"]["target"] for one in told] == [1, 0, 1, 0]
    assert told[0]["twin"]["signed"] == [False] * 3


def test_a_cut_text_is_warned_of(models, tmp_path, capsys):
    out = tmp_path / "a.json"
    printed = done(capsys, "explain", "--model", models / "bert", "--text", TEXT, "--max-length", 4, "--out", out, *QUICK)
    assert printed.startswith("warning: the text was cut: the model has read 4 of its ")
    assert json.loads(out.read_text())["cut"] > 0


@load_images
def test_twins_that_are_none(models, tmp_path, capsys):
    given = ("explain", "--model", models / "bert", "--text", TEXT, "--out", tmp_path / "a.html", *QUICK)
    said = refused(capsys, *given, "--twin", models / "vit")
    assert said.endswith("its twin reads images and the model texts; give a twin of the same kind")
    assert refused(capsys, *given, "--twin", models / "gone").startswith(f"cannot explain {models / 'bert'}: ")
    assert "the twin" in refused(capsys, *given, "--twin", models / "llama")
    said = refused(capsys, *given[:-3], tmp_path / "a.png", *QUICK, "--twin", models / "softmax")
    assert "a picture shows no twin; name a page with --out, not " in said


def test_numbers_are_what_explain_gives(models, tmp_path, capsys):
    done(capsys, "explain", "--model", models / "bert", "--text", TEXT, "--target", "1", "--out", tmp_path / "a.json", *QUICK)
    done(capsys, "explain", "--model", models / "bert", "--text", TEXT, "--target", "LABEL_1", "--out", tmp_path / "a.safetensors", *QUICK)
    loaded = load(str(models / "bert"))
    wanted = explain(loaded.model, TEXT, 1, tokenizer=loaded.tokenizer, methods=("weights", "oriented", "contributions", "rollout"))
    told = json.loads((tmp_path / "a.json").read_text())
    assert (told["target"], told["target_name"], tuple(told["tokens"])) == (1, "LABEL_1", wanted.tokens)
    assert list(told["scores"]) == ["weights", "oriented", "contributions", "rollout"]
    torch.testing.assert_close(torch.tensor(told["scores"]["rollout"]), wanted.scores["rollout"])
    torch.testing.assert_close(torch.tensor(told["scores_by_word"]["rollout"]), wanted.by_word("rollout"))
    torch.testing.assert_close(torch.tensor(told["heads"]["contributions"]), wanted.contributions.sum((-2, -1)))
    torch.testing.assert_close(load_explanation(tmp_path / "a.safetensors").weights, wanted.weights)


@pytest.mark.parametrize("picture", [[], ["--picture", "heads", "--view", "raw"], ["--head", "1,2"], ["--scores", "rollout"]])
def test_pictures_of_a_text(picture, models, tmp_path, capsys):
    done(capsys, "explain", "--model", models / "bert", "--text", TEXT, "--out", tmp_path / "a.png", *QUICK, *picture)
    assert np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).std() > 3


@load_images
def test_an_image(models, tmp_path, capsys):
    image = ("--image", models / "picture.png")
    done(capsys, "explain", "--model", models / "vit", *image, "--out", tmp_path / "a.svg", *QUICK)
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    done(capsys, "explain", "--model", models / "vit", *image, "--out", tmp_path / "a.html", *QUICK)
    assert "data:image/png;base64," in (tmp_path / "a.html").read_text()


def test_next_tokens(models, tmp_path, capsys):
    given = ("explain", "--model", models / "llama", "--text", TEXT)
    printed = done(capsys, *given, "--generate", 3, "--out", tmp_path / "a.json", *QUICK)
    assert printed.endswith(f"wrote {tmp_path / 'a.json'}: 3 next tokens\n")
    steps = json.loads((tmp_path / "a.json").read_text())
    assert [len(step["tokens"]) - len(steps[0]["tokens"]) for step in steps] == [0, 1, 2]
    loaded = load(str(models / "llama"))
    batch = loaded.tokenizer(TEXT, return_tensors="pt")
    written = loaded.model.generate(**batch, max_new_tokens=3, do_sample=False, eos_token_id=-1)[0, batch["input_ids"].shape[1] :]
    assert [step["target"] for step in steps] == written.tolist()
    done(capsys, *given, "--generate", 2, "--out", tmp_path / "a.png", *QUICK)
    done(capsys, *given, "--out", tmp_path / "one.html", *QUICK)


def test_a_whole_generation(models, tmp_path, capsys):
    given = ("explain", "--model", models / "llama", "--text", TEXT, "--generate", 3, "--whole-generation")
    printed = done(capsys, *given, "sequential_integrated_gradients", "--out", tmp_path / "a.json")
    assert printed.endswith("3 written tokens\n")
    told = json.loads((tmp_path / "a.json").read_text())
    loaded = load(str(models / "llama"))
    method = "sequential_integrated_gradients"
    found = explain_whole_generation(loaded.model, loaded.tokenizer, TEXT, new_tokens=3, method=method)
    assert told == json.loads(found.to_json())
    done(capsys, *given, "input_x_gradient", "--out", tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    done(capsys, *given, "input_x_gradient", "--out", tmp_path / "a.html", "--steps", 2)
    data = json.loads((tmp_path / "a.html").read_text().split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert len(data["generation"]["scores"]) == 3
    assert data["follows"]  # the same tokens, one explanation each
    assert data["generation"]["tokens"][:-1] == data["explanations"][-1]["tokens"]


def test_all_methods_and_what_they_add_up_to(models, tmp_path, capsys):
    pytest.importorskip("captum")
    done(capsys, "explain", "--model", models / "bert", "--text", TEXT, "--out", tmp_path / "a.json", "--methods", "all", "--samples", 64)
    told = json.loads((tmp_path / "a.json").read_text())
    assert tuple(told["scores"]) == METHODS
    assert set(told["conservation"]) == set(METHODS) - {"weights", "oriented", "rollout", "gradient"}
    for method, each in told["conservation"].items():
        assert each["total"] == pytest.approx(sum(told["scores"][method]), abs=1e-4)
        assert each["gap"] == pytest.approx(each["expected"] - each["total"], abs=1e-6)
    assert told["conservation"]["attnlrp"]["expected"] == pytest.approx(told["logit"])
    done(capsys, "explain", "--model", models / "bert", "--text", TEXT, "--out", tmp_path / "a.html", "--methods", "attnlrp,alti")
    assert '"attnlrp"' in (tmp_path / "a.html").read_text()


def test_a_page_that_is_too_large_says_what_to_lower(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page, "LARGEST_PAGE", 30_000)
    given = ("explain", "--model", models / "bert", "--text", TEXT, "a gripping film", "--target", 1, *QUICK)
    printed = done(capsys, *given, "--out", tmp_path / "a.html")
    (line,) = [line for line in printed.splitlines() if line.startswith("warning: the page takes ")]
    assert "for “2: a gripping film”" in line
    assert line.endswith("; explain fewer texts in one page, shorter ones (max_length) or fewer layers")


def test_a_position_is_that_of_every_kind_of_model(models, tmp_path, capsys):
    given = ("--text", TEXT, "--position", 1, "--out")
    done(capsys, "explain", "--model", models / "llama", *given, tmp_path / "a.json", *QUICK)
    assert json.loads((tmp_path / "a.json").read_text())["position"] == 1
    assert "has one row of logits for the whole input" in refused(
        capsys, "explain", "--model", models / "bert", *given, tmp_path / "b.json"
    )


def test_a_softmax_model_says_so(models, tmp_path, capsys):
    printed = done(capsys, "explain", "--model", models / "softmax", "--text", TEXT, "--out", tmp_path / "a.html", *QUICK)
    assert printed.startswith("note: BertForSequenceClassification computes softmax: no weight is below 0")
    assert "computes softmax: no weight is below 0" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize("name", ["report.json", "report.md"])
def test_faithfulness(name, models, tmp_path, capsys):
    printed = done(
        capsys,
        *("faithfulness", "--model", models / "bert", "--data", models / "rows.csv", "--text-column", "sentence", "--limit", 2),
        *("--methods", "contributions,random", "--measures", "attention_tau,comprehensiveness", "--out", tmp_path / name),
    )
    assert "| contributions |" in printed
    text = (tmp_path / name).read_text()
    if name.endswith("json"):
        values = json.loads(text)["values"]
        assert len(values["comprehensiveness"]["random"]) == 2
    else:
        assert "| random " in text


@pytest.fixture(scope="module")
def softmax_twin_of_bert(models):
    """The same weights as `bert`, with softmax."""
    folder = models / "twin"
    model = load(str(models / "bert")).model
    twin = BertForSequenceClassification(BertForSequenceClassification.config_class(**{**model.config.to_dict(), "model_type": "bert"}))
    twin.load_state_dict(model.state_dict())
    twin.save_pretrained(folder)
    processor_for("bert").save_pretrained(folder)
    return folder


def test_models_are_compared(models, softmax_twin_of_bert, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ("faithfulness", "--models", softmax_twin_of_bert, models / "bert", "--data", models / "rows.csv", "--text-column", "sentence")
    printed = done(capsys, *given, "--seeds", 2, "--methods", "contributions,random", "--heads", 1)
    assert printed.splitlines()[0].startswith("method         of")
    assert "A: twin (softmax)" in printed
    assert "B: bert (TanhMax, explains the same class as A in " in printed
    assert "wrote faithfulness.json and faithfulness.png in " in printed
    found = json.loads((tmp_path / "faithfulness.json").read_text())
    assert found["settings"]["seeds"] == 2
    assert len(found["models"][1]["heads"]["without_negatives"]) == 1
    with Image.open(tmp_path / "faithfulness.png") as figure:
        assert figure.width > 300
    assert not (tmp_path / "faithfulness.json.part").exists()
    assert refused(capsys, *given) == "faithfulness.json is there already; add --overwrite to replace it, or name another file with --out"
    said = refused(capsys, *given, "--out", tmp_path / "faithfulness.md")
    assert said.endswith("faithfulness.png is there already; add --overwrite to replace it, or name another file with --out")
    given = (*given, "--workers", 2)
    done(capsys, *given, "--methods", "weights", "--heads", 0, "--seeds", 1, "--out", tmp_path / "faithfulness.md", "--overwrite")
    assert (tmp_path / "faithfulness.md").read_text().startswith("| method ")


def test_a_comparison_that_was_stopped_says_how_to_go_on(models, softmax_twin_of_bert, tmp_path, capsys, monkeypatch):
    def _stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(explain_commands, "compare_faithfulness", _stop)
    given = ("faithfulness", "--models", softmax_twin_of_bert, models / "bert", "--data", models / "rows.csv", "--text-column", "sentence")
    assert main([str(each) for each in (*given, "--out", tmp_path / "a.json")]) == 130
    assert f"stopped; the same command goes on with what is in {tmp_path / 'a.json.part'}" in capsys.readouterr().out


def test_all_methods_of_one_model_and_its_heads(models, tmp_path, capsys):
    given = ("faithfulness", "--model", models / "bert", "--data", models / "rows.csv", "--text-column", "sentence", "--limit", 1)
    printed = done(capsys, *given, "--methods", "all", "--measures", "mask_tau", "--steps", 2, "--heads", 1, "--out", tmp_path / "a.md")
    assert "| integrated_gradients |" in printed
    assert "Change of the logit without a head:" in printed
    assert "| layer.head |" in printed


def test_methods_that_a_model_does_not_serve_are_left_out_of_all_with_the_reason(models, tmp_path, capsys):
    """GLM-4 is built as LLaMA is, and norms what attention writes before it is added."""
    for name in ("one", "other"):
        Walked("Glm4ForCausalLM", DECODER, "causal").save(tmp_path / name)
    reason = "its layers do more to what attention writes than to add it to the residual stream, which ALTI does not know"
    quick = ("--methods", "all", "--steps", 2, "--samples", 64)
    printed = done(capsys, "explain", "--model", tmp_path / "one", "--text", TEXT, *quick, "--out", tmp_path / "a.json")
    assert f"note: without alti, alti_logit: {reason}\n" in printed
    assert set(METHODS) - set(json.loads((tmp_path / "a.json").read_text())["scores"]) == {"alti", "alti_logit"}
    measured = ("--data", models / "rows.csv", "--text-column", "sentence", "--limit", 1, *quick, "--measures", "mask_tau", "--heads", 0)
    printed = done(capsys, "faithfulness", "--model", tmp_path / "one", *measured, "--out", tmp_path / "b.md")
    assert printed.startswith(f"note: without alti, alti_logit: {reason}\n")
    both = ("faithfulness", "--models", tmp_path / "one", tmp_path / "other", *measured, "--seeds", 1, "--out", tmp_path / "c.md")
    printed = done(capsys, *both)
    for method in ("alti", "alti_logit"):
        assert f"Not measured of A and B: {method}: {reason}" in printed


@load_images
def test_comparisons_that_cannot_be(models, softmax_twin_of_bert, tmp_path, capsys):
    rows = ("--data", models / "rows.csv", "--text-column", "sentence", "--out", tmp_path / "a.json")
    bert = models / "bert"
    said = refused(capsys, "faithfulness", "--models", bert, models / "llama", *rows)
    assert "have different tasks, text ForSequenceClassification and text ForCausalLM; compare models of one task" in said
    said = refused(capsys, "faithfulness", "--models", bert, tmp_path / "gone", *rows)
    assert f"cannot load {tmp_path / 'gone'}: " in said or f"{tmp_path / 'gone'}: there is no such folder" in said
    said = refused(capsys, "faithfulness", "--models", bert, models / "vit", *rows)
    assert said.endswith("which reads images; give --data, a folder of pictures")
    assert not (tmp_path / "a.json.part").exists()


def test_ablate_a_classifier(models, tmp_path, capsys):
    given = ("ablate", models / "bert", models / "rows.csv", "--text-column", "sentence", "--out", tmp_path / "a.json")
    printed = done(capsys, *given, "--rows", 2, "--seed", 3)
    assert "| negative keys masked " in printed
    assert f"wrote {tmp_path / 'a.json'}" in printed
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["verdict"] in printed
    assert (found["rows"], found["settings"]["seed"], found["settings"]["data"]) == (2, 3, "rows.csv")
    assert found["settings"]["sha256"] == hashlib.sha256((models / "rows.csv").read_bytes()).hexdigest()
    texts = ["not funny at all", "a gripping film"]
    loaded = load(str(models / "bert"))
    same = ablate_negatives(loaded.model, texts, loaded.tokenizer, labels=[0, 1], seed=3, progress=False)
    assert found["effects"] == same.to_dict()["effects"]
    assert "is there already; add --overwrite" in refused(capsys, *given)
    done(capsys, *given, "--overwrite", "--interventions", "negatives_masked", "--samples", 10)
    assert list(json.loads((tmp_path / "a.json").read_text())["effects"]) == ["negatives_masked"]


def test_ablate_beside_the_model(models, capsys):
    """A language model predicts its texts: labels in the file are not asked for."""
    out = models / "llama" / "ablation.json"
    assert f"wrote {out}" in done(capsys, "ablate", models / "llama", models / "rows.csv", "--text-column", "sentence")
    assert read_ablation(models / "llama").metric == "loss per token"
    out.unlink()


def test_ablate_pictures(models, tmp_path, capsys):
    for name in ("LABEL_0", "LABEL_1"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.effect_noise((15, 15), 40).convert("RGB").save(tmp_path / "pictures" / name / "a.png")
    done(capsys, "ablate", models / "vit", tmp_path / "pictures", "--out", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["rows"] == 2


@pytest.mark.parametrize("name", ["collapse.json", "collapse.svg"])
def test_rank_collapse(name, models, tmp_path, capsys):
    printed = done(capsys, "rank-collapse", "--model", models / "bert", "--text", TEXT, "a film", "--out", tmp_path / name)
    assert [line[:22].strip() for line in printed.splitlines()[:4]] == [
        *("with skip, with MLP", "with skip, no MLP", "no skip, with MLP", "no skip, no MLP"),
    ]
    if name.endswith("json"):
        told = json.loads((tmp_path / name).read_text())
        assert told["norm"] == "frobenius"
        assert len(told["settings"]["no skip, no MLP"]["ratio"]) == 4


@load_images
def test_rank_collapse_of_images(models, tmp_path, capsys):
    picture = models / "picture.png"
    done(capsys, "rank-collapse", "--model", models / "vit", "--image", picture, picture, "--out", tmp_path / "a.png")


def test_a_file_that_is_there_stays(models, tmp_path, capsys):
    out = tmp_path / "a.json"
    out.write_text("mine")
    text = ("--text", TEXT)
    for command, given in (("explain", text), ("faithfulness", ("--data", models / "rows.csv")), ("rank-collapse", text)):
        said = refused(capsys, command, "--model", models / "bert", *given, "--out", out)
        assert said == f"{out} is there already; add --overwrite to replace it, or name another file with --out"
    assert out.read_text() == "mine"
    done(capsys, "explain", "--model", models / "bert", "--text", TEXT, "--out", out, "--overwrite", *QUICK)
    assert out.read_text() != "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bert", "--text", TEXT, "--out", "a.gif"], "--out must end with one of .html, .png, .svg, .json, .safetensors, but is a.gif"),
        (["bert", "--text", TEXT, "--out", "gone/a.html"], "there is no folder gone to write a.html to"),
        (["bert", "--text", TEXT, "--out", "a.html", "--picture", "heads"], "--picture and --head choose what a .png or .svg shows"),
        (["bert", "--text", " ", "--out", "a.html"], "{cannot}the text is empty"),
        (["bert", "--text", TEXT, "--out", "a.html", "--target", "7"], "{cannot}target 7 is out of range"),
        (["bert", "--text", TEXT, "--out", "a.html", "--methods", "luck"], "{cannot}there is no method 'luck'"),
        (
            ["llama", "--text", TEXT, "--out", "a.safetensors", "--generate", "2", "--whole-generation", "input_x_gradient"],
            "{cannot}--whole-generation needs --generate N and an --out that ends with .html, .json, .png or .svg, and takes no --methods",
        ),
        (
            ["llama", "--text", TEXT, "--out", "a.json", "--generate", "5000", "--whole-generation", "input_x_gradient"],
            "{cannot}the generation is too long: ",
        ),
        (
            ["bert", "--text", TEXT, "--out", "a.json", "--generate", "2", "--whole-generation", "input_x_gradient"],
            "{cannot}--generate needs a causal language model",
        ),
        (
            ["bert", "--text", TEXT, "--out", "a.json", "--methods", "kernel_shap", "--samples", "3"],
            "{cannot}KernelSHAP of ",
        ),
        (["bert", "--text", TEXT, "--out", "a.html", "--layers", "9"], "{cannot}there is no layer 9"),
        (
            ["bert", "--text", TEXT, "--out", "a.html", "--generate", "2"],
            "{cannot}--generate needs a causal language model",
        ),
        (["llama", "--text", TEXT, "--out", "a.html", "--generate", "0"], "argument --generate: must be 1 or more, but is '0'"),
        (["bert", "--text", "film " * 80, "--out", "a.html"], "{cannot}the text has "),
        (
            ["bert", "--image", "picture.png", "--out", "a.html"],
            "{cannot}it is a TanhMaxBertForSequenceClassification, which",
        ),
        (["gone", "--text", TEXT, "--out", "a.html"], "{cannot}"),
        (["bert", "--text", TEXT, "--out", "a.png", "--head", "5,0", *QUICK], "{cannot}there is no layer 5, head 0"),
        (
            ["bert", "--text", TEXT, "--out", "a.png", "--picture", "head", *QUICK],
            "{cannot}the picture of a head needs --head",
        ),
        (["bert", "--out", "a.html"], "one of the arguments --text --image is required; see hf-tanhmax explain --help"),
    ],
)
def test_mistakes_of_explain(arguments, said, models, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (15, 15)).save("picture.png")
    model = models / arguments[0]
    assert refused(capsys, "explain", "--model", model, *arguments[1:]).startswith(said.format(cannot=f"cannot explain {model}: "))
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_mistakes_of_the_others(models, tmp_path, capsys):
    rows = models / "rows.csv"
    given = ("faithfulness", "--model", models / "bert", "--data", rows)
    said = refused(capsys, *given, "--out", tmp_path / "a.json")
    assert said == f'cannot measure {models / "bert"}: {rows} has no texts in a column "text"; its columns are sentence, label'
    said = refused(capsys, *given, "--text-column", "sentence", "--measures", "luck", "--out", tmp_path / "a.json")
    assert "there is no measure 'luck'" in said
    assert refused(capsys, *given, "--out", tmp_path / "a.html") == f"--out must end with one of .json, .md, but is {tmp_path / 'a.html'}"
    said = refused(capsys, "ablate", models / "softmax", rows, "--text-column", "sentence", "--out", tmp_path / "a.json")
    assert said.endswith("it has no negative weights to change: a model of type 'bert' computes softmax; give a TanhMax model")
    (tmp_path / "rows.csv").write_text("text,label\nfunny,7\n")
    said = refused(capsys, "ablate", models / "bert", tmp_path / "rows.csv", "--out", tmp_path / "a.json")
    assert "row 0: there is no class '7'" in said
    said = refused(capsys, "rank-collapse", "--model", models / "bert", "--image", models / "picture.png", "--out", tmp_path / "a.json")
    assert said.endswith("it is a TanhMaxBertForSequenceClassification, which reads texts; give --text")


@load_images
def test_mistakes_with_images(models, tmp_path, capsys):
    vit = ("--model", models / "vit", "--out", tmp_path / "a.json")
    for command in ("explain", "rank-collapse"):
        said = refused(capsys, command, *vit, "--text", TEXT)
        assert said.endswith("it is a TanhMaxViTForImageClassification, which reads images; give --image")
        assert refused(capsys, command, *vit, "--image", "gone.png").endswith("[Errno 2] No such file or directory: 'gone.png'")
        (tmp_path / "text.png").write_text("text")
        assert refused(capsys, command, *vit, "--image", tmp_path / "text.png").endswith("text.png is no picture that PIL can read")


def test_a_text_that_the_model_cannot_read_is_warned_of(models, tmp_path, capsys):
    printed = done(capsys, "explain", "--model", models / "bert", "--text", "Ωmega ☃", "--out", tmp_path / "a.json", *QUICK)
    told = json.loads((tmp_path / "a.json").read_text())
    assert printed.startswith("warning: the model knows none of these words: ")
    assert told["knows_no_word"] is True
    assert told["unknown"] == [place for place, token in enumerate(told["tokens"]) if token == "[UNK]"] != []
    assert told["notes"][0] in printed
