"""The card and the evaluation results of a publication."""

import json

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from publishable import RESULTS, asks_by_an_old_name

from hf_tanhmax.cards import model_card
from hf_tanhmax.hub import HubError
from hf_tanhmax.hub.documents import FORM, eval_results, with_base, write_documents

pytestmark = asks_by_an_old_name


def card_of(folder):
    return (folder / "README.md").read_text()


def test_a_missing_card_is_written_with_the_results(run_folder):
    write_documents(run_folder, repo_id="owner/thing")
    assert card_of(run_folder) == str(model_card(run_folder, repo_id="owner/thing", results=[RESULTS]))
    assert "0.7500" in card_of(run_folder)
    assert (run_folder / ".eval_results/sst2.yaml").exists()


def test_a_card_of_this_folder_gets_its_repository(checkpoint):
    """It is then what it would have been with the repository from the start."""
    place = checkpoint.rename(checkpoint.parent / "thing")
    model_card(place).save(place / "README.md")
    assert 'name = "."' in card_of(place)
    write_documents(place, repo_id="owner/thing")
    assert card_of(place) == str(model_card(place, repo_id="owner/thing"))


def test_the_pipeline_on_a_card_gets_its_repository_too(checkpoint):
    tried = RESULTS | {"example": {"input": "Text to look at.", "output": "[]"}}
    model_card(checkpoint, results=[tried]).save(checkpoint / "README.md")
    assert '"text-classification", model=".")("Text' in card_of(checkpoint)
    write_documents(checkpoint, repo_id="owner/thing")
    assert '"text-classification", model="owner/thing")("Text' in card_of(checkpoint)


def test_a_card_by_hand_stays(checkpoint):
    (checkpoint / "README.md").write_text("# By hand")
    write_documents(checkpoint, repo_id="owner/thing")
    assert card_of(checkpoint) == "# By hand"


def test_the_form_that_peft_leaves_is_no_card(adapter):
    assert FORM in card_of(adapter)
    write_documents(adapter, repo_id="owner/thing")
    assert FORM not in card_of(adapter)
    assert "A PEFT adapter" in card_of(adapter)


@pytest.mark.parametrize("results", [[1], {"recipe": "mine"}])
def test_results_of_something_else(checkpoint, results):
    (checkpoint / "results.json").write_text(json.dumps(results))
    with pytest.raises(HubError, match=r"is not what recipes.train writes .*: move it elsewhere"):
        write_documents(checkpoint, repo_id="owner/thing")


def test_a_base_that_reads_like_a_path_is_renamed_everywhere():
    before = "---\nbase_model: /a/b_c\ntags:\n- base_model:adapter:/a/b_c\n---\nOn /a/b\\_c, not on /a/b_cd.\n"
    after = "---\nbase_model: owner/other\ntags:\n- base_model:adapter:owner/other\n---\nOn owner/other, not on /a/b_cd.\n"
    assert with_base(before, "/a/b_c", "owner/other") == after


def test_a_base_that_reads_like_a_word_is_renamed_in_the_metadata_alone():
    before = "---\nbase_model: base\ntags:\n- base_model:adapter:base\n---\nThe base is frozen.\n"
    after = "---\nbase_model: owner/other\ntags:\n- base_model:adapter:owner/other\n---\nThe base is frozen.\n"
    assert with_base(before, "base", "owner/other") == after


def test_a_test_metric_on_a_data_set_of_the_hub():
    ((path, text),) = eval_results(RESULTS).items()
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert path == ".eval_results/sst2.yaml"
    assert (entry.dataset_id, entry.value, entry.notes) == ("stanfordnlp/sst2", 0.75, "accuracy, TanhMax, linear from 0 to 1, seed 0")


@pytest.mark.parametrize(
    "change", [{"data": {"source": "files"}}, {"data": {"source": "synthetic"}}, {"data": {}}, {"main_metric": "perplexity"}]
)
def test_nothing_else_is_an_entry(change):
    assert eval_results(RESULTS | change) == {}
