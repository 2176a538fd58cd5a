"""Rows: every kind of file, and every way in which a file can be wrong."""

import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.configuration.recipe import checked, read_layers
from hf_tanhmax.training.data import rows as data
from hf_tanhmax.training.data.rows import source_fingerprint
from hf_tanhmax.training.tasks import task_for

ROWS = [("good film", 1), ("bad film", 0), ("no, null", 1), ("NA", 0), ("a b c", 1), ("d", 0)]


def configured(**keys):
    return checked("bert/text_classification", *read_layers("bert/text_classification"), ("", keys))


@pytest.fixture
def config(tmp_path):
    """A config over files with the given contents; the suffix of the train file is chosen."""

    def make(train, validation=None, test=None, suffix="csv", **changes):
        files = {}
        for key, contents in (("train_file", train), ("validation_file", validation), ("test_file", test)):
            if contents is not None:
                path = tmp_path / f"{key}.{suffix}"
                path.write_bytes(contents) if isinstance(contents, bytes) else path.write_text(contents)
                files[key] = str(path)
        return configured(**files, **changes)

    return make


def load_splits(made):
    return task_for(made).splits()


def csv(rows, header="text,label"):
    return "\n".join([header, *(f'"{text}",{label}' for text, label in rows)]) + "\n"


def test_files_of_every_kind_hold_the_same_rows(config):
    lines = "\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS)
    rows = json.dumps([{"text": text, "label": label} for text, label in ROWS])
    found = [load_splits(config(csv(ROWS), csv(ROWS))), load_splits(config(lines, lines, suffix="jsonl"))]
    found.append(load_splits(config(rows, rows, suffix="json")))
    for splits in found:
        assert list(splits.train["text"]) == [text for text, _ in ROWS]
        assert list(splits.train["label"]) == [label for _, label in ROWS]
        assert splits.names == ["0", "1"]
        assert splits.test is None


def test_parquet(config, tmp_path):
    made = Dataset.from_dict({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]})
    made.to_parquet(tmp_path / "made.parquet")
    contents = (tmp_path / "made.parquet").read_bytes()
    assert list(load_splits(config(contents, contents, suffix="parquet")).validation["label"]) == [label for _, label in ROWS]


def test_names_are_numbered_in_order_and_numbers_by_size(config):
    named = load_splits(config(csv([("a", "pos"), ("b", "neg"), ("c", "pos")]), csv([("d", "neg")])))
    assert (named.names, list(named.train["label"]), list(named.validation["label"])) == (["neg", "pos"], [1, 0, 1], [0])
    numbered = load_splits(config(csv([("a", 10), ("b", -1), ("c", 2)]), csv([("d", 10)])))
    assert (numbered.names, list(numbered.validation["label"])) == (["-1", "2", "10"], [2])


def test_without_a_validation_file_the_seed_chooses_one_from_the_train_rows(config):
    rows = [(f"text {number}", number % 2) for number in range(20)]
    made = config(csv(rows), test=csv(ROWS))
    splits, again, other = load_splits(made), load_splits(made), load_splits(configured(**{**dict(made), "seed": 1}))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (18, 2, 6)
    assert sorted([*splits.train["text"], *splits.validation["text"]]) == sorted(text for text, _ in rows)
    assert list(splits.train["text"]) == list(again.train["text"])
    assert list(splits.train["text"]) != list(other.train["text"])


def test_classes_that_the_data_numbers_get_names(config):
    splits = load_splits(config(csv(ROWS), label_names=["negative", "positive"]))
    assert splits.names == ["negative", "positive"]
    assert sorted(splits.train["label"]) == sorted(load_splits(config(csv(ROWS))).train["label"])
    for names in (["one"], ["same", "same"], ["a", "b", "c"]):
        with pytest.raises(RecipeError, match="label_names must be 2 different names, for the classes 0, 1, but are "):
            load_splits(config(csv(ROWS), label_names=names))
    named = csv([("a", "bad"), ("b", "good"), ("c", "bad")])
    with pytest.raises(RecipeError, match="label_names are for data whose classes are numbers, but it names them: bad, good"):
        load_splits(config(named, named, label_names=["negative", "positive"]))


def test_a_key_that_came_later_is_part_of_a_run_where_it_is_set(config):
    assert not {"label_names", "files_dataset", "freeze_layers"} & set(config(csv(ROWS)).identity())
    assert config(csv(ROWS), label_names=["a", "b"]).identity()["label_names"] == ["a", "b"]


def test_the_fingerprint_follows_the_contents(config):
    first = source_fingerprint(config(csv(ROWS)))
    assert first["source"] == "files"
    assert first != source_fingerprint(config(csv(ROWS[:4])))
    assert load_splits(config(csv(ROWS), csv(ROWS))).fingerprint["rows"] == {"train": 6, "validation": 6}
    assert "dataset" not in first
    assert source_fingerprint(config(csv(ROWS), files_dataset="you/rows")) == {**first, "dataset": "you/rows"}


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (csv(ROWS, "texts,label"), None, r"the train data has no column 'text' \(text_column\); it has 'texts', 'label'"),
        (csv(ROWS, "text,gold"), None, r"no column 'label' \(label_column\); it has 'text', 'gold'"),
        ("text,label\n", None, "the train data has no rows"),
        (csv([("a", 1), ("b", 1)]), None, "the train data has one class only, '1'"),
        (csv([("a", 1), ("b", 0.5)]), None, "row 1 of the train data holds 1.0 in 'label'.*must hold a whole number or a name"),
        (csv([("a", "x"), ("b", "")]), None, "row 2 of the train data holds '' in 'label'"),
        (csv(ROWS), csv([("a", 7)]), "row 1 of the validation data has the label 7, which the train data never has; it has '0', '1'"),
        (csv(ROWS), csv(ROWS, "text,gold"), "the validation data has no column 'label'"),
        ("text,label\n1,1\n2,0\n", None, r"row 1 of the train data holds 1 in 'text' \(text_column\), but must hold text"),
        ('text,label\n"a,1\nb,0,3,4\n', None, "train_file: cannot read"),
    ],
)
def test_files_that_cannot_work_are_refused(train, validation, message, config):
    with pytest.raises(RecipeError, match=message):
        load_splits(config(train, validation))


def test_json_that_is_none_is_refused(config):
    with pytest.raises(RecipeError, match=r"train_file: cannot read .*train_file.json as json"):
        load_splits(config("{not json", suffix="json"))
    missing = json.dumps([{"text": None, "label": 1}, {"text": "a", "label": 0}])
    with pytest.raises(RecipeError, match="row 1 of the train data holds None in 'text'"):
        load_splits(config(missing, suffix="json"))


def test_a_dataset_of_the_hub(config, monkeypatch):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=features)
    hidden = Dataset.from_dict({"text": ["a", "b"], "label": [-1, -1]}, features=features)
    monkeypatch.setattr(data, "load_dataset", lambda *_: {"train": rows, "validation": rows, "test": hidden})
    made = configured(dataset="some/name")
    splits = load_splits(made)
    assert (splits.names, list(splits.train["label"]), splits.test) == (["neg", "pos"], [1, 0, 1], None)
    monkeypatch.setattr(data, "load_dataset", lambda *_: {"test": rows})
    with pytest.raises(RecipeError, match="the dataset 'some/name' has no split 'train', only test"):
        load_splits(made)


def test_a_dataset_that_cannot_be_loaded_is_one_sentence(monkeypatch):
    def fails(*_):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(data, "load_dataset", fails)
    with pytest.raises(RecipeError, match="cannot load the dataset 'some/name': no network"):
        load_splits(configured(dataset="some/name"))


def test_film_reviews_are_part_of_the_package():
    config = configured(dataset="film_reviews")
    splits = load_splits(config)
    assert splits.names == ["negative", "positive"]
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1080, 120, 400)
    assert sum(splits.test["label"]) == 200
    assert sum(splits.train["label"]) + sum(splits.validation["label"]) == 600
    assert set(source_fingerprint(config)["sha256"]) == {"train", "test"}
    assert source_fingerprint(config)["source"] == "film_reviews"
    assert splits.test["text"][3].startswith("The whole thing comes off like a particularly amateurish episode")
