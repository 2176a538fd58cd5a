"""`--hub` reads IMDB and AG News as the Hub stores them: parquet files that the card of the data set names, here on loopback."""

from io import BytesIO

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from loopback.fixture import HELPERS, hub_environment, run_script
from loopback.repositories import Blob, Repository

from recipes.paper.settings import SETS

CARD = """---
configs:
- config_name: {config}
  data_files:
  - split: train
    path: {folder}/train-*
  - split: test
    path: {folder}/test-*
---
"""


def publish(hub, name, config, folder, names, rows):
    """A data set on the loopback Hub, with splits of so many texts of each class."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    files = {"README.md": Blob(CARD.format(config=config, folder=folder).encode(), large=False)}
    for split, count in rows.items():
        table = {
            "text": [f"{names[label]} words, number {number}" for number in range(count) for label in range(len(names))],
            "label": [label for _ in range(count) for label in range(len(names))],
        }
        buffer = BytesIO()
        Dataset.from_dict(table, features=features).to_parquet(buffer)
        files[f"{folder}/{split}-00000-of-00001.parquet"] = Blob(buffer.getvalue(), large=True)
    repository = Repository(f"datasets/{name}")
    repository.commit("main", files, "data")
    hub.store.repositories[repository.repo_id] = repository


@pytest.mark.slow
def test_imdb_and_ag_news(hub, tmp_path):
    publish(hub, "stanfordnlp/imdb", "plain_text", "plain_text", ["neg", "pos"], {"train": 8, "test": 5})
    publish(hub, "fancyzhx/ag_news", "default", "data", ["World", "Sports", "Business", "Sci/Tech"], {"train": 8, "test": 5})
    environment = hub_environment(hub, tmp_path / "home", token=None)
    printed = run_script(HELPERS / "datasets_on_hub.py", str(SETS), environment=environment)
    assert "imdb 16 10 [0, 1] stanfordnlp/imdb number words neg pos\n" in printed
    assert "ag_news 16 10 [0, 1] fancyzhx/ag_news number words business world\n" in printed
    assert {asked.path for asked in hub.asked if "/resolve/" in asked.path and asked.path.endswith(".parquet")}


@pytest.mark.slow
def test_a_hub_without_them_is_said_in_one_sentence(hub, tmp_path):
    with pytest.raises(AssertionError, match="RecipeError: cannot load stanfordnlp/imdb: "):
        run_script(HELPERS / "datasets_on_hub.py", str(SETS), environment=hub_environment(hub, tmp_path / "home", token=None))
