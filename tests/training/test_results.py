"""What a result file says about attention and origin, and the numbers of a table."""

from hf_tanhmax.training.results import attention_in_words, formatted, git_commit, portable


def test_attention_in_words():
    config = {"attention": "tanhmax", "polarity": 1.0, "polarity_schedule": None, "layers": None, "heads": None}
    assert attention_in_words({"attention": "softmax"}) == "softmax"
    assert attention_in_words(config) == "TanhMax, polarity 1"
    assert attention_in_words(config | {"layers": [0, 2]}) == "TanhMax, polarity 1, layers 0, 2"
    assert attention_in_words(config | {"polarity_schedule": "cosine", "polarity_start": 0.0}) == "TanhMax, cosine from 0 to 1"
    assert attention_in_words(config | {"polarity": "learned", "score_bias": 3.0}) == "TanhMax, learned from c = 3"


def test_outside_a_git_tree_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_tanhmax.training.results.ROOT", tmp_path)
    assert git_commit() is None


def test_numbers_have_four_digits_seconds_one_and_nothing_is_a_dash():
    assert [formatted("f1", 0.123456), formatted("f1", 0.5, 0.25), formatted("seconds", 9.87), formatted("f1", None)] == [
        "0.1235",
        "0.5000 ± 0.2500",
        "9.9",
        "-",
    ]


def test_results_name_no_folder_of_this_machine():
    config = {"train_file": "/home/someone/data/train.csv", "model_name_or_path": "org/name", "seed": 3, "test_file": None}
    assert portable(config) == config | {"train_file": "data/train.csv"}
