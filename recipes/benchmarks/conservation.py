"""What the scores of each method add up to, beside what they should, on trained classifiers of texts; and what they cost.

python -m recipes.benchmarks.conservation --model softmax=runs/softmax --model tanhmax=runs/tanhmax [--data DATA.csv] [--count 30] [--out F]

For every text and method the gap between the sum of the scores and what it should be (`Conservation`), as a share of all scores without
their signs: median and quartiles over texts, and in how many texts the two are far apart. AttnLRP is also computed with its attention
weights held constant, so that what biases keep is told from what the attention maps keep. The methods of one text run one after the other,
models in turn. Without --data the texts are the first of the test rows of the film reviews that come with the package, in which case
`hf-tanhmax start` makes the models.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_tanhmax.cli.input_files import read_inputs
from hf_tanhmax.errors import RecipeError
from hf_tanhmax.integration.hooks import AttentionCall
from hf_tanhmax.interpret import explain, methods_for
from hf_tanhmax.interpret.attribution.conservation import Conservation
from hf_tanhmax.interpret.attribution.decomposition.attnlrp import attnlrp
from hf_tanhmax.interpret.attribution.evaluation_mode import evaluation_mode
from hf_tanhmax.interpret.attribution.target import Target
from hf_tanhmax.interpret.inputs.encoding import encode
from hf_tanhmax.interpret.inputs.loading import Loaded, load
from hf_tanhmax.provenance import hardware, versions
from hf_tanhmax.results import table, write_json

from ..command_line import Parser, exit_codes

SAMPLES = 128  # of KernelSHAP, whose sum is exact with any number
CONSTANT = "attnlrp, weights constant"
UNSUMMED = ("weights", "oriented", "rollout", "gradient", "value_zeroing", "alti")  # the last two are shares: their sum is 1 by division


@exit_codes(OSError, ValueError)
def main(arguments: list[str] | None = None) -> int:
    """Print the table; 2 if something the user gave cannot work."""
    parser = Parser(prog="python -m recipes.benchmarks.conservation", description=__doc__)
    parser.add_argument(
        "--model", action="append", required=True, metavar="NAME=FOLDER", help="a classifier of texts, and its name in the table"
    )
    parser.add_argument("--data", type=Path, help="a file with a column `text` (default: the packaged film reviews, test rows)")
    parser.add_argument("--count", type=int, default=30, help="texts (default: 30)")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args(arguments)
    models = dict(_named(argument) for argument in options.model)
    texts = read_inputs(options.data or _film_reviews(), limit=options.count)
    result = measure({name: _loaded(folder) for name, folder in models.items()}, [str(text) for text in texts])
    print(report(result))
    if options.out is not None:
        write_json(options.out, result)
    return 0


def measure(models: dict[str, Loaded], texts: Sequence[str]) -> dict[str, Any]:
    """Explain each text by every method that a model serves, model by model in turn.

    Args:
        models: classifiers, by their names.
        texts: what they read.
    """
    gaps: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    far: dict[str, dict[str, list[bool]]] = {name: {} for name in models}
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    for text in texts:
        for name, loaded in models.items():
            for method, compute in _ways(loaded, text).items():
                start = time.process_time()
                with warnings.catch_warnings():  # of softmax, and of words that the tokenizer does not know
                    warnings.simplefilter("ignore", UserWarning)
                    found = compute()
                seconds[name].setdefault(method, []).append(time.process_time() - start)
                gaps[name].setdefault(method, []).append(found.gap / found.size)
                far[name].setdefault(method, []).append(found.is_far)
    return {
        "texts": len(texts),
        "samples": SAMPLES,
        "threads": torch.get_num_threads(),
        "gap": gaps,
        "far": {name: {method: sum(values) for method, values in methods.items()} for name, methods in far.items()},
        "processor_s": {
            name: {method: statistics.median(values) for method, values in methods.items()} for name, methods in seconds.items()
        },
        "classes": {name: type(loaded.model).__name__ for name, loaded in models.items()},
        "versions": versions(),
        "hardware": hardware(),
    }


def report(result: dict[str, Any], *, markdown: bool = False) -> str:
    """The table, one row per method and one column per model."""
    names = list(result["gap"])
    methods = list(dict.fromkeys(method for name in names for method in result["gap"][name]))
    header = ["scores", *(f"{name}: gap / all scores" for name in names), *(f"{name}: far" for name in names), "processor, s"]
    rows = []
    for method in methods:
        gaps = [_spread(result["gap"][name].get(method)) for name in names]
        far = [f"{result['far'][name][method]} of {result['texts']}" if method in result["far"][name] else "" for name in names]
        cost = [result["processor_s"][name][method] for name in names if method in result["processor_s"][name]]
        rows.append([method.replace("_", " "), *gaps, *far, f"{statistics.median(cost):.2f}"])
    return table(header, rows, markdown=markdown)


def _spread(values: list[float] | None) -> str:
    if not values:
        return ""
    sizes = sorted(abs(value) for value in values)
    low, middle, high = statistics.quantiles(sizes, n=4, method="inclusive") if len(sizes) > 1 else sizes * 3
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def _ways(loaded: Loaded, text: str) -> dict[str, Callable[[], Conservation]]:
    """For each method a function that computes what its scores of one text add up to."""

    def _explained(method: str) -> Callable[[], Conservation]:
        return lambda: explain(loaded.model, text, tokenizer=loaded.tokenizer, methods=(method,), samples=SAMPLES).conservation[method]

    ways = {method: _explained(method) for method in methods_for(loaded.model) if method not in UNSUMMED}
    return {**ways, CONSTANT: lambda: _with_constant_weights(loaded, text)} if "attnlrp" in ways else ways


def _with_constant_weights(loaded: Loaded, text: str) -> Conservation:
    inputs = encode(loaded.model, text, tokenizer=loaded.tokenizer).inputs
    with evaluation_mode(loaded.model):
        logits = loaded.model(**inputs).logits.detach()
        target = int(logits.argmax())
        return Conservation.of(attnlrp(loaded.model, inputs, Target(target, None, ""), _constant), float(logits[0, target]))


def _constant(call: AttentionCall) -> tuple[Tensor, Tensor]:
    return replace(call, query=call.query.detach(), key=call.key.detach()).compute_with_weights()


def _named(argument: str) -> tuple[str, str]:
    name, _, folder = argument.partition("=")
    if not folder:
        raise RecipeError(f"--model takes NAME=FOLDER, but got {argument!r}")
    return name, folder


def _loaded(folder: str) -> Loaded:
    loaded = load(folder)
    if loaded.tokenizer is None or loaded.is_causal:
        raise RecipeError(f"{folder} is a {type(loaded.model).__name__}; give classifiers of texts")
    return loaded


def _film_reviews() -> Path:
    return Path(str(files("hf_tanhmax.training.data") / "film_reviews" / "test.csv"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
