"""Model cards of models that were really trained, of which three are kept: `python tests/helpers/made_cards.py` writes these.

`recipes/results/<data>.jsonl` holds the runs, and on every line of `recipes/results/models.jsonl` stands what a run's model says of itself:
its name, and the contents of its configs by their paths. The name ends with the variant, of which the last settings have the card.
"""

import functools
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a card of this project does not hang on what the Hub says of its base

from hf_tanhmax.cards import model_card
from hf_tanhmax.results import read_lines, read_runs, settings_of
from hf_tanhmax.training.compare import comparison

ROOT = Path(__file__).parents[2]
CARDS, RESULTS = ROOT / "model_cards", ROOT / "recipes" / "results"
KEPT = ("tanhmax-minilm-sst2-annealed", "tanhmax-dinov2s-cifar10-lora", "tanhmax-smollm2-tinyshakespeare-learned")
# The checkpoints that the runs started from, by the second part of a model's name.
BASES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2", "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
# What the files held, where it is on the Hub in the same parts; of 20 Newsgroups two classes were read.
DATASETS = {
    "sst2": "SetFit/sst2",
    "cifar10": "uoft-cs/cifar10",
    "cifar10-dinov2s": "uoft-cs/cifar10",
    "tinyshakespeare": "karpathy/tiny_shakespeare",
}


def rendered():
    """Name and text of every card."""
    for model in read_lines(RESULTS / "models.jsonl"):
        with TemporaryDirectory() as place:
            folder = Path(place) / model["name"]
            for path, content in model["files"].items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(json.dumps(content))
            tried = [run for run in read_runs(RESULTS / f"{model['data']}.jsonl") if run["variant"] == model["name"].rsplit("-", 1)[1]]
            own = [_named(run, model["data"]) for run in tried if settings_of(run) == settings_of(tried[-1])]
            base = BASES.get(model["name"].split("-")[1])
            softmax = [run for run in read_runs(RESULTS / f"{model['data']}.jsonl") if run["variant"] == "softmax"]
            beside = {
                "comparison": compared(model["data"]),
                "softmax": [run for run in softmax if settings_of(run) == settings_of(softmax[-1])],
            }
            yield model["name"], str(model_card(folder, results=own, base_model=base, **beside))


def _named(run, data):
    return {**run, "data": {**run["data"], "dataset": DATASETS[data]}} if data in DATASETS else run


@functools.cache
def compared(data):
    """The runs on one data set beside each other."""
    return comparison(read_runs(RESULTS / f"{data}.jsonl"), markdown=True)


def main():
    for name, text in rendered():
        if name in KEPT:
            (CARDS / f"{name}.md").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
