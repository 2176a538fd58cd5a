"""Where a measurement comes from."""

from hf_tanhmax.provenance import git_commit, hardware, versions


def test_outside_a_git_tree_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_tanhmax.provenance.data_folder", lambda name: tmp_path)
    assert git_commit() is None


def test_versions_of_more_packages():
    assert {"python", "torch", "transformers", "hf-tanhmax"} <= versions().keys()
    assert versions(["numpy"]).keys() - versions().keys() == {"numpy"}


def test_this_machine():
    assert hardware()["device"] in ("cpu", "cuda")
