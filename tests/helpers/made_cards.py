"""The cards in `model_cards/`, of models that were really trained: `python tests/helpers/made_cards.py` renders them from results.

`recipes/results/<data>/` holds the runs of each variant, and beside them, for every card, a folder of its name with what the run's model
says of itself (its config, and the config of its processor or adapter); the name ends with the variant, of which the last settings have
the card.
"""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a card of this project does not hang on what the Hub says of its base

from hf_tanhmax.cards import model_card
from hf_tanhmax.training.compare import comparison
from hf_tanhmax.training.results import read_runs, settings_of

ROOT = Path(__file__).parents[2]
CARDS, RESULTS = ROOT / "model_cards", ROOT / "recipes" / "results"
# The checkpoints that the runs started from, by the second part of a folder's name.
BASES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2", "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}


def rendered():
    """Path and text of every card."""
    for folder in sorted(path.parent for name in ("config.json", "adapter_config.json") for path in RESULTS.glob(f"*/*/{name}")):
        variant = folder.name.rsplit("-", 1)[1]
        runs = [run for path in sorted(folder.parent.glob("*.json")) for run in read_runs(path)]
        tried = [run for run in runs if run["variant"] == variant]
        own = [run for run in tried if settings_of(run) == settings_of(tried[-1])]
        card = model_card(folder, results=own, comparison=comparison(runs, markdown=True), base_model=BASES.get(folder.name.split("-")[1]))
        yield CARDS / f"{folder.name}.md", str(card)


if __name__ == "__main__":
    for path, text in rendered():
        path.write_text(text)
