"""Metadata: what is known stands there, what is not is left out."""

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, constants
from saved_models import result, save_model

from hf_tanhmax.cards import is_repository
from hf_tanhmax.cards.metadata import metadata
from hf_tanhmax.checkpoint import Checkpoint, read_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, processor=False)
    return read_checkpoint(folder)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Put a model into the Hub's cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def put(name, **files):
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("f00")
        for file, text in files.items():
            path = repository / "snapshots" / "f00" / file.replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return put


def made(checkpoint, runs=(), **given):
    options = {"name": "my-model", "base_model": None, "license": None, "language": None, **given}
    return metadata(checkpoint, list(runs), **options).to_dict()


def from_base(name, **changes):
    return result(model={"base_model": name}, **changes)


def test_an_unmeasured_checkpoint(checkpoint):
    assert made(checkpoint) == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["tanhmax", "custom_code", "bert"],
    }


def test_what_is_given_stands_there(checkpoint):
    found = made(checkpoint, base_model="google-bert/bert-base-uncased", license="apache-2.0", language="en")
    assert (found["base_model"], found["license"], found["language"]) == ("google-bert/bert-base-uncased", "apache-2.0", "en")
    assert "base_model_relation" not in found  # converted is none of the Hub's relations
    trained = made(checkpoint, [result()], base_model="google-bert/bert-base-uncased")
    assert trained["base_model_relation"] == "finetune"


def test_a_name_of_a_base_model_alone_is_not_enough(checkpoint):
    """`folder/name` of another machine looks like a name on the Hub."""
    assert "base_model" not in made(checkpoint, [from_base("folder/name")])


@pytest.mark.parametrize("given", [{"results": "a folder"}, {"base_model": "org/name", "license": "mit", "language": "en"}])
def test_nobody_is_asked_for_what_is_known(checkpoint, monkeypatch, given):
    monkeypatch.setattr("hf_tanhmax.cards.metadata._base_card", lambda name: pytest.fail(f"asked for the card of {name}"))
    runs = [result(model={"base_model": "folder/name", "base_is_folder": True})] if given.pop("results", None) else []
    assert made(checkpoint, runs, **given).get("base_model") == given.get("base_model")


def test_a_base_model_that_the_hub_gave(checkpoint, cached):
    cached("org/name", config_json="{}")
    found = made(checkpoint, [from_base("org/name")])
    assert (found["base_model"], found["base_model_relation"]) == ("org/name", "finetune")
    assert "license" not in found


def test_the_licence_is_that_of_the_base_model(checkpoint, cached):
    cached("org/name", README_md="---\nlicense: mit\n---\n# It\n")
    assert made(checkpoint, [from_base("org/name")])["license"] == "mit"
    assert made(checkpoint, [from_base("org/name")], license="apache-2.0")["license"] == "apache-2.0"
    assert made(checkpoint, base_model="org/name")["license"] == "mit"


def test_the_language_is_that_of_the_base_model(checkpoint, cached):
    cached("org/name", README_md="---\nlanguage: [en, de]\n---\n# It\n")
    assert made(checkpoint, [from_base("org/name")])["language"] == ["en", "de"]
    assert made(checkpoint, [from_base("org/name")], language="fr")["language"] == "fr"


def test_a_licence_of_its_own_comes_with_its_name(checkpoint, cached):
    cached("org/name", README_md="---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n")
    found = made(checkpoint, [from_base("org/name")])
    assert (found["license"], found["license_name"], found["license_link"]) == ("other", "own", "LICENSE")


def test_a_folder_of_the_same_name_is_not_the_hub(checkpoint, cached, tmp_path, monkeypatch):
    cached("org/name", README_md="---\nlicense: mit\n---\n")
    (tmp_path / "here" / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert "base_model" not in made(checkpoint, [from_base("org/name")])
    assert not is_repository("org/name")


@pytest.mark.parametrize("name", ["/absolute/path", "a/b/c", "with space/x", "", None, 3, "files", "synthetic", "digits", "-x"])
def test_what_no_repository_is_called(name):
    assert not is_repository(name)


@pytest.mark.parametrize(
    ("source", "datasets"), [("stanfordnlp/sst2", ["stanfordnlp/sst2"]), ("imdb", ["imdb"]), ("files", None), ("digits", None)]
)
def test_data_sets_are_those_of_the_hub(source, datasets, checkpoint):
    found = made(checkpoint, [result(data={"source": source})])
    assert found.get("datasets") == datasets


def test_metrics_of_one_run(checkpoint):
    found = made(checkpoint, [result(accuracy=0.8125, data={"source": "stanfordnlp/sst2", "config": "plain"})])
    assert found["metrics"] == ["accuracy", "f1"]
    ((entry,), name) = found["model-index"][0]["results"], found["model-index"][0]["name"]
    assert name == "my-model"
    assert entry["task"] == {"type": "text-classification"}
    assert entry["dataset"] == {"type": "stanfordnlp/sst2", "name": "stanfordnlp/sst2", "config": "plain", "split": "test"}
    assert entry["metrics"] == [
        {"type": "accuracy", "value": 0.8125, "name": "Accuracy on the test rows"},
        {"type": "f1", "value": 0.8025, "name": "F1 on the test rows"},
    ]


def test_metrics_of_several_seeds_are_means(checkpoint):
    runs = [result(0, 0.8), result(1, 0.9)]
    assert "model-index" not in made(checkpoint, runs)  # of files that nobody named
    for run in runs:
        run["data"]["dataset"] = "stanfordnlp/sst2"
    found = made(checkpoint, runs)
    (entry,) = found["model-index"][0]["results"]
    assert entry["dataset"] == {"type": "stanfordnlp/sst2", "name": "stanfordnlp/sst2"}  # which of its splits is not known
    assert found["datasets"] == ["stanfordnlp/sst2"]
    assert entry["metrics"][0] == {"type": "accuracy", "value": 0.85, "name": "Accuracy on the test rows, mean of 2 seeds"}


def test_without_test_rows_the_validation_rows_count(checkpoint):
    run = result(data={"source": "stanfordnlp/sst2"})
    run["metrics"] = {"validation_accuracy": 0.7, "train_loss": 0.1}
    (entry,) = made(checkpoint, [run])["model-index"][0]["results"]
    assert entry["dataset"]["split"] == "validation"
    assert entry["metrics"] == [{"type": "accuracy", "value": 0.7, "name": "Accuracy on the validation rows"}]
    run["metrics"] = {"train_loss": 0.1}
    assert "model-index" not in made(checkpoint, [run])


def test_a_head_without_a_task(tmp_path):
    save_model(tmp_path, auto="AutoModelForPreTraining", processor=False)
    found = made(read_checkpoint(tmp_path), [result()])
    assert "pipeline_tag" not in found
    assert "model-index" not in found


def test_adapters_are_of_peft():
    adapter = {"base_model_name_or_path": "you/base"}
    found = made(Checkpoint("adapter", adapter=adapter, base=Checkpoint("you/base")), [result()])
    assert found["library_name"] == "peft"
    assert (found["base_model"], found["base_model_relation"]) == ("you/base", "adapter")
    assert found["tags"] == ["tanhmax"]


def test_text_cannot_break_the_yaml(checkpoint):
    nasty = "a: b\n---\n# {[&*!|>'\"%@`"
    data = metadata(
        checkpoint, [result(data={"source": "stanfordnlp/sst2", "config": nasty})], name=nasty, base_model=None, license="no", language="no"
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n# Title\n")
    assert yaml.safe_load(data.to_yaml())["license"] == "no"
    assert card.text == "# Title\n"
    assert card.data.to_dict() == ModelCardData(**data.to_dict()).to_dict()
    assert card.data.model_name == nasty
