"""The rendered numbers are those of the result files, the README's code runs, and its versions are those that the package declares."""

import os
import re
from pathlib import Path

import pytest
from families import real_weights
from readme import README, ROOT, documents, rendered

from hf_tanhmax.models.bundle import CHECK

TEXT = README.read_text()
QUICKSTARTS = re.findall(r"<!-- quickstart -->\n```python\n(.*?)```", TEXT, re.DOTALL)
OUTPUTS = re.findall(r"<!-- quickstart output -->\n```\n(.*?)```", TEXT, re.DOTALL)
LARGEST = 12_400  # bytes that someone reads who only wants to know what this is


def test_rendered_blocks_are_current():
    assert rendered(documents()) == documents()


def test_a_block_that_no_file_has_is_refused():
    texts = documents()
    with pytest.raises(ValueError, match="the block 'accuracy' must stand in one of the files, once; it stands in none"):
        rendered({name: text.replace("<!-- accuracy -->", "") for name, text in texts.items()})


def test_a_block_that_two_files_have_is_refused():
    twice = documents() | {"tests/README.md": "<!-- accuracy -->\n<!-- /accuracy -->"}
    with pytest.raises(ValueError, match=r"'accuracy' must .*it stands in \['hf_tanhmax/attention/README.md', 'tests/README.md'\]"):
        rendered(twice)


@pytest.mark.weights
@pytest.mark.parametrize("place", range(len(QUICKSTARTS)))
def test_the_code_prints_what_the_readme_says(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = QUICKSTARTS[place].replace("sentence-transformers/all-MiniLM-L6-v2", real_weights("bert"))
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == OUTPUTS[place]


def test_there_is_an_output_of_every_block_of_code_and_not_too_much_of_all():
    assert len(QUICKSTARTS) == len(OUTPUTS) == 2
    assert len(QUICKSTARTS[0].strip().splitlines()) - QUICKSTARTS[0].count("\n\n") == 8
    assert len(TEXT.encode()) <= LARGEST


def test_versions_are_the_declared_ones():
    tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = next(item for item in declared["dependencies"] if item.startswith("transformers")).removeprefix("transformers")
    oldest, beyond = re.fullmatch(r">=5\.(\d+),<5\.(\d+)", wanted).groups()
    assert f"transformers 5.{oldest}.0 and 5.{int(beyond) - 1}.0 (`{wanted}`)" in TEXT  # both ends are what .ci/run tests
    assert f"needs transformers 5.{oldest} or newer" in CHECK
    assert f"< (5, {oldest}):" in CHECK
    assert f"Python {declared['requires-python'].removeprefix('>=')} or newer" in TEXT


@pytest.mark.parametrize("name", [*documents(), ".github/CONTRIBUTING.md"])
def test_links_and_paths_lead_somewhere(name):
    text, folder = (ROOT / name).read_text(), (ROOT / name).parent
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    paths = re.findall(r"`((?:hf_tanhmax|recipes|tests|model_cards)/[\w/.]+)`", text)
    assert [link for link in links if not (folder / link).exists()] == []
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_named_file_exists():
    for name in re.findall(r"recipes/[\w/]+\.yaml", TEXT):
        assert Path(ROOT / name).exists(), name
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
