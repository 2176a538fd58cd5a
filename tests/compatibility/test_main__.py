"""The command that says what a release changes: for the installed one, and for altered trees."""

import re
import shutil

import pytest
from trees import MASKS, MODEL, release

from hf_tanhmax.compatibility import __main__ as command
from hf_tanhmax.compatibility import dependencies, sources

FINE = "Nothing that this package leans on is gone, and all that attention functions are handed is known.\n"


@pytest.fixture(scope="module")
def own():
    return sources.installed(dependencies.PACKAGES)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Trees in the place of the installed release and of another one, with a table of one entry."""
    entry = dependencies.Dependency("transformers", (("masking_utils.py", "sdpa_mask"),), ("registration",), "there is no mask to register")
    monkeypatch.setattr(command, "missing", lambda release: dependencies.missing(release, [entry]))

    def make(installed, other=None):
        monkeypatch.setattr(command, "installed", lambda _: release(tmp_path / "installed", **installed))
        if other is None:
            return command.main([])
        release(tmp_path / "other", **other)
        return command.main(["--against", str(tmp_path / "other")])

    return make


@pytest.mark.slow
def test_the_installed_release(capsys):
    """All modelling files are read, so this takes some seconds."""
    assert command.main([]) == 0
    text = capsys.readouterr().out
    assert text.endswith(FINE)
    asking, calls = map(int, re.search(r"(\d+) architectures ask the attention interface, in (\d+) calls", text).groups())
    assert 300 < asking < calls


RENAMED = {
    "modeling_utils.py": (
        "ALL_ATTENTION_FUNCTIONS",
        "EVERY_FUNCTION",
        "ALL_ATTENTION_FUNCTIONS in transformers/modeling_utils.py; no attention",
    ),
    "configuration_utils.py": (
        "_attn_implementation",
        "_attention",
        "PreTrainedConfig._attn_implementation in transformers/configuration_utils",
    ),
    "masking_utils.py": ("def sdpa_mask", "def boolean_mask", "sdpa_mask in transformers/masking_utils.py; there is no boolean mask"),
}


@pytest.mark.parametrize("path", RENAMED)
def test_one_thing_is_renamed_in_a_copy(path, own, tmp_path):
    """What is leant on, from the installed release, in a copy without its models."""
    old, new, sentence = RENAMED[path]
    source = own.packages["transformers"]
    shutil.copytree(source, tmp_path / "transformers", ignore=shutil.ignore_patterns("__pycache__", *(f"{letter}*" for letter in "_")))
    for file in source.glob("__init__.py"):
        shutil.copy(file, tmp_path / "transformers")
    copy = sources.in_folder(tmp_path, dependencies.PACKAGES)
    empty = command.Interface(frozenset(), {}, {}, {}, frozenset())
    assert [each for each in command.faults_of(copy, empty) if "Gone" in each and "__init__" not in each] == []
    changed = tmp_path / "transformers" / path
    changed.write_text(changed.read_text().replace(old, new))
    (fault,) = command.faults_of(copy, empty)
    assert fault.startswith(f"Gone from {own.version}: {sentence}")
    assert ". Look at " in fault


def test_a_mask_that_is_gone(fake, capsys):
    assert fake({}, {"version": "5.99.0", "masks": MASKS.replace("sdpa_mask", "boolean_mask")}) == 1
    text = capsys.readouterr().out
    assert "5.99.0 now has these functions in masking_utils: boolean_mask.\n" in text
    assert "5.99.0 no longer has these functions in masking_utils: sdpa_mask.\n" in text
    gone = "Gone from 5.99.0: sdpa_mask in transformers/masking_utils.py; there is no mask to register. Look at registration.\n"
    assert text.endswith(gone)


def test_a_keyword_that_is_unknown(fake, capsys):
    assert fake({"models": {"tiny": MODEL.replace("is_causal=None", "relative_scores=scores")}}) == 1
    text = capsys.readouterr().out
    assert "Unknown in 5.98.0: attention functions are handed 'relative_scores' (1 calls), of which TanhMax attention does not know" in text
    assert FINE not in text


def test_everything_that_moves_is_said(fake, capsys):
    """The other release is the older one, so changes are told from it to the installed one."""
    older = {"tiny": MODEL.replace("cache=None", "past_key_values=None").replace("is_causal=None", "softcap=2.0"), "gone": MODEL}
    newer = {"tiny": MODEL.replace('"sdpa"', '"flex_attention"'), "fresh": MODEL + MODEL}
    assert fake({"models": newer}, {"models": older, "version": "5.9.1"}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["Transformers 5.9.1", "Transformers 5.98.0"]
    assert lines[2:] == [
        "5.98.0 now has 1 architectures that ask the attention interface: fresh.",
        "5.98.0 no longer has 1 architectures that ask the attention interface: gone.",
        "5.98.0 no longer has the keyword argument 'softcap', which is honoured here.",
        "Keyword arguments are passed in more or fewer calls: dropout 2 to 3, is_causal 1 to 3, scaling 2 to 3.",
        "5.98.0 no longer has these parameters in methods that call an attention function: past_key_values (1).",
        "5.98.0 now has code that compares the attention function with 'eager' in fresh.",
        "5.98.0 no longer has code that compares the attention function with 'eager' in gone.",
        "5.98.0 now has code that compares the attention function with 'flex_attention' in tiny.",
        "5.98.0 now has code that compares the attention function with 'sdpa' in fresh.",
        "5.98.0 no longer has code that compares the attention function with 'sdpa' in gone, tiny.",
        FINE.strip(),
    ]


def test_a_folder_without_a_release(tmp_path, capsys):
    assert command.main(["--against", str(tmp_path)]) == 2
    assert "holds no transformers; give the folder of `pip install" in capsys.readouterr().err
