"""Speed of faithfulness measurements: batches against loops of one forward pass per perturbed copy, and whether their values agree.

python -m recipes.benchmarks.faithfulness [--model M --texts TEXTS.txt] [--count 16] [--rounds 3] [--out speed.json]

Three ways to the same table of faithfulness (attention, mask and deletion erasure of every token, comprehensiveness, sufficiency, insertion
and deletion, for five scores):

* `method by method`: a loop over texts, scores and erased tokens, one forward pass per copy; what a score needs twice is kept;
* `copy by copy`: the same loop, but copies of one score are kept for the others too, so that no copy is ever run twice;
* `batched`: `hf_tanhmax.interpret.faithfulness`.

The first ratio is the speed-up over the plain loop; the second is that of batches alone. Without --model a randomly initialised BERT of
MiniLM's size explains random tokens, as many per text as SST-2's sentences have.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

import hf_tanhmax
from hf_tanhmax.errors import RecipeError, one_line
from hf_tanhmax.integration.hooks import replace_attention
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.interpret import MEASURES, explain, faithfulness
from hf_tanhmax.interpret.attribution.hooks import zeroed_keys
from hf_tanhmax.interpret.attribution.integrated_gradients import baseline_token
from hf_tanhmax.interpret.faithfulness.metrics import MeasuredExample
from hf_tanhmax.interpret.faithfulness.perturbation import Perturbation
from hf_tanhmax.interpret.inputs.encoding import IDS, ModelInput, encode
from hf_tanhmax.provenance import hardware, versions
from hf_tanhmax.results import table, write_json
from hf_tanhmax.training.data.tokenizer import load_tokenizer

from ..command_line import Parser, exit_codes

METHODS = ("weights", "oriented", "contributions", "rollout", "input_x_gradient")
TIMED = tuple(name for name, measure in MEASURES.items() if not measure.of_seed)  # what a loop erases without drawing anything
TARGET = 5.0
# Lengths of SST-2's sentences in MiniLM's tokens, special ones included: their deciles.
LENGTHS = (8, 11, 14, 17, 20, 23, 27, 32, 38)

# Values of every text by measure and method, and the number of copies that were run for them.
Values: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]
Measured: TypeAlias = tuple[Values, int]


@exit_codes()
def main(arguments: list[str] | None = None) -> int:
    """Print the table; 2 if something the user gave cannot work."""
    parser = Parser(prog="python -m recipes.benchmarks.faithfulness", description=__doc__)
    parser.add_argument("--model", help="folder or Hub name of a sequence classifier (default: a BERT of MiniLM's size, at random)")
    parser.add_argument("--texts", type=Path, help="a file with one text per line; needed with --model")
    parser.add_argument("--count", type=int, default=16, help="texts that are measured (default: 16)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way is timed, in turn (default: 3)")
    parser.add_argument("--batch_size", type=int, default=32, help="copies per batch (default: 32)")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args(arguments)
    model, tokenizer, inputs = _model_and_inputs(options.model, options.texts, options.count)
    result = speed(model, tokenizer, inputs, rounds=options.rounds, batch_size=options.batch_size)
    print(report(result))
    if options.out is not None:
        write_json(options.out, result)
    return 0


def speed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    inputs: Sequence[ModelInput],
    *,
    rounds: int,
    batch_size: int,
) -> dict[str, Any]:
    """Time the three ways in turn, and compare every value of their tables.

    Args:
        model: a sequence classifier in evaluation mode.
        tokenizer: of the model, or None for encoded inputs.
        inputs: texts or encoded batches.
        rounds: how often each way is timed; the median counts.
        batch_size: of the batched way.
    """
    ways: dict[str, Callable[[], Measured]] = {
        "method by method": lambda: _loop(model, tokenizer, inputs, shared=False),
        "copy by copy": lambda: _loop(model, tokenizer, inputs, shared=True),
        "batched": lambda: _batched(model, tokenizer, inputs, batch_size),
    }
    values: dict[str, Values] = {}
    copies: dict[str, int] = {}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter(), time.process_time()
            values[name], copies[name] = way()
            seconds[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    medians = {name: [statistics.median(side) for side in zip(*times, strict=True)] for name, times in seconds.items()}
    return {
        "model": "/".join(Path(getattr(model.config, "_name_or_path", "") or type(model).__name__).parts[-2:]),
        "texts": len(inputs),
        "rounds": rounds,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "copies": copies,
        "wall_s": {name: wall for name, (wall, _) in medians.items()},
        "processor_s": {name: processor for name, (_, processor) in medians.items()},
        "ratio": {name: medians[name][0] / medians["batched"][0] for name in ways},
        "largest_difference": max(_difference(values[name], values["batched"]) for name in ways),
        "versions": versions(),
        "hardware": hardware(),
    }


def report(result: dict[str, Any], *, markdown: bool = False) -> str:
    """The table, one row per way."""
    header = ["way", "forward copies", "wall, s", "processor, s", "copies per second", "times as long"]
    rows = [
        [
            way,
            f"{result['copies'][way]:,}",
            f"{result['wall_s'][way]:.2f}",
            f"{result['processor_s'][way]:.2f}",
            f"{result['copies'][way] / result['wall_s'][way]:.0f}",
            f"{result['ratio'][way]:.1f}",
        ]
        for way in result["ratio"]
    ]
    gained = result["ratio"]["method by method"]
    verdict = f"{gained:.1f} times the plain loop, target {TARGET:g}: {'met' if gained >= TARGET else 'missed'}"
    same = f"largest difference of any value of the tables: {result['largest_difference']:.1e}"
    return "\n".join([table(header, rows, markdown=markdown), "", f"* {verdict}", f"* {same}"])


def _model_and_inputs(
    name: str | None, texts: Path | None, count: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None, Sequence[ModelInput]]:
    if name is None:
        return _random_model(), None, _random_inputs(count)
    if texts is None or not texts.is_file():
        raise RecipeError(f"--model needs --texts, a file with a text on each line, but there is {texts or 'none'}")
    lines = [line for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()][:count]
    try:
        model = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot load {name!r}: {one_line(error, 300)}") from error
    return model, load_tokenizer(name), lines


def _random_model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = hf_tanhmax.TanhMaxBertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    return hf_tanhmax.TanhMaxBertForSequenceClassification(config).eval()


def _random_inputs(count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, LENGTHS[index % len(LENGTHS)]) for index in range(count)]
    return [{IDS: torch.randint(1000, 30000, shape, generator=generator)} for shape in shapes]


def _batched(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, inputs: Sequence[ModelInput], batch_size: int) -> Measured:
    measured = faithfulness(model, tokenizer, inputs, METHODS, TIMED, batch_size=batch_size, progress=False)
    return measured.values, measured.settings["copies"]


def _loop(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, inputs: Sequence[ModelInput], *, shared: bool) -> Measured:
    values: dict[str, dict[str, list[float]]] = {measure: {method: [] for method in METHODS} for measure in TIMED}
    copies = 0
    for one in inputs:
        explanation = explain(model, one, tokenizer=tokenizer, methods=METHODS)
        encoded = encode(model, one, tokenizer=tokenizer)
        example = MeasuredExample(0, encoded.content_positions)
        kept: dict[Perturbation, float] = {}
        for method in METHODS:
            if not shared:
                copies, kept = copies + len(kept), {}
            probability = _probability(model, encoded.inputs, explanation.target, baseline_token(model, tokenizer), kept)
            scores = explanation.scores[method][list(encoded.content_positions)].double().numpy()
            for measure in TIMED:
                values[measure][method].append(MEASURES[measure].value(example, scores, probability))
        copies += len(kept)
    return values, copies


def _probability(
    model: PreTrainedModel, inputs: dict[str, Tensor], target: int, baseline: int, kept: dict[Perturbation, float]
) -> Callable[[Perturbation], float]:
    """The target's probability for a copy, one forward pass unless it is kept."""
    modules = attention_modules(model)

    def _of_copy(copy: Perturbation) -> float:
        if copy in kept:
            return kept[copy]
        erased, perturbed = sorted(copy.erased), inputs
        if copy.kind == "mask":
            perturbed = {**inputs, IDS: inputs[IDS].clone()}
            perturbed[IDS][0, erased] = baseline
        elif copy.kind == "deletion":
            rest = [position for position in range(inputs[IDS].shape[1]) if position not in copy.erased]
            perturbed = {name: value[:, rest] for name, value in inputs.items()}
        with torch.no_grad(), replace_attention(modules if copy.kind == "attention" else [], zeroed_keys([erased])):
            kept[copy] = float(model(**perturbed).logits.double().softmax(-1)[0, target])
        return kept[copy]

    return _of_copy


def _difference(one: Values, other: Values) -> float:
    pairs = [(one[measure][method], other[measure][method]) for measure in TIMED for method in METHODS]
    return max(float(numpy.nanmax(numpy.abs(numpy.subtract(*pair)))) for pair in pairs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
