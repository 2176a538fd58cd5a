"""Perplexity, signs and continuations of a causal language model: with softmax, as converted, and fine-tuned with an equal budget.

    python -m recipes.conversion language_models --data DIR --weights DIR [--ways ...] [--seeds ...]

Text is of kinds that conversions are calibrated on, and of kinds that are held out (`texts`). A line of `language_models.jsonl` is a way
and a seed, which decides the rows to calibrate on and, with fine-tuning, those to train on. Lines that are there are left out, so the same
command goes on where it stopped. Test text is read in float32, once for each line, beside the softmax model of the checkpoint.
"""

import argparse
import copy
import functools
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import hf_tanhmax
from hf_tanhmax.conversion.allocation import allocate
from hf_tanhmax.conversion.refitting import refit
from hf_tanhmax.errors import RecipeError
from hf_tanhmax.functional import Shift
from hf_tanhmax.provenance import git_commit, hardware, versions
from hf_tanhmax.results import read_lines
from hf_tanhmax.training.health import attention_health

from ..command_line import Parser, exit_codes
from .continuations import Continuations, sampled
from .plan import RESULTS
from .run import add_line
from .texts import Texts

PLAN = Path(__file__).with_name("language_models.yaml")
FILE = "language_models.jsonl"
UNTUNED = ""  # stands for the way of fine-tuning of models as converted
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class LanguageWay:
    """A way from the softmax checkpoint to a TanhMax one.

    Attributes:
        title: in the table.
        polarity: of the model; 0 is softmax.
        shift: as in `TanhMaxSettings`.
        mass: negative mass to spread over the heads, whose polarities are then chosen one by one; None is one polarity for all.
        refit: whether output projections are refitted.
        ridge: of the refit.
        times: how many times the rows of the plan it is calibrated on.
        tuned: the ways of fine-tuning, each of which starts from the model as converted.
        continued: whether it continues prompts, as converted; softmax does so in bfloat16, which says how much is no difference.
    """

    title: str
    polarity: float | str = 0.0
    shift: Shift = None
    mass: float | None = None
    refit: bool = False
    ridge: float = 0.1
    times: int = 1
    tuned: list[str] = field(default_factory=list)
    continued: bool = False


@dataclass(frozen=True)
class Tuning:
    """A way of fine-tuning, the same for every model.

    Attributes:
        title: in the table.
        kinds: of text.
        steps: of one row each, as many of each kind.
    """

    title: str
    kinds: list[str]
    steps: int


@dataclass(frozen=True)
class LanguagePlan:
    """What is measured; `language_models.yaml` says what each number is."""

    length: int
    calibrated: list[str]
    held_out: list[str]
    calibration_rows: int
    own_rows: int
    test_rows: int
    signs_rows: int
    tunings: dict[str, Tuning]
    learning_rate: float
    warmup_steps: int
    prompts: int
    prompt_length: int
    continuation: int
    ways: dict[str, LanguageWay] = field(default_factory=dict)

    @property
    def kinds(self) -> list[str]:
        """All kinds of text that are read."""
        return [*self.calibrated, *self.held_out]


def read_plan(path: Path = PLAN) -> LanguagePlan:
    """The plan in a file.

    Raises:
        TypeError: a key that does not exist, or one that is missing.
    """
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    ways = {name: LanguageWay(**way) for name, way in values.pop("ways").items()}
    tunings = {name: Tuning(**tuning) for name, tuning in values.pop("tunings").items()}
    return LanguagePlan(ways=ways, tunings=tunings, **values)


@exit_codes(resumable=True)
def main(arguments: list[str]) -> int:
    """Measure what is missing; 0 if it went well, 2 if something given cannot work."""
    plan = read_plan()
    parser = Parser(prog="python -m recipes.conversion language_models", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with 20news/, sst2/, text/")
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="a softmax checkpoint with its tokenizer")
    parser.add_argument("--ways", nargs="+", choices=list(plan.ways), default=list(plan.ways))
    parser.add_argument("--tuned", action=argparse.BooleanOptionalAction, help="only with fine-tuning, or only without")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/conversion/language_models"), metavar="DIR", help="where samples are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    chosen = parser.parse_args(arguments)
    _run(plan, chosen)
    return 0


def _run(plan: LanguagePlan, chosen: argparse.Namespace) -> None:
    path = chosen.results / FILE
    lines: Any = read_lines(path) if path.is_file() else []
    done = [[line["way"], line["tuned"], line["seed"]] for line in lines]
    bench = Bench(plan, chosen.weights, chosen.data, chosen.work)
    for seed in chosen.seeds:
        for name in chosen.ways:
            tuned = [UNTUNED, *plan.ways[name].tuned]
            missing = [each for each in tuned if [name, each, seed] not in done and chosen.tuned in (None, each != UNTUNED)]
            for line in bench.lines(name, seed, missing) if missing else ():
                add_line(path, line)
                ratios = ", ".join(f"{kind} {found['ratio']:.4f}" for kind, found in line["test"].items())
                title = f"{name} tuned on {line['tuned']}" if line["tuned"] else name
                print(f"{title}, seed {seed}: mass {line['signs']['overall']['negative_mass']:.3f}, {ratios}", flush=True)


class Bench:
    """The softmax model, text for it, and what it makes of that text.

    Args:
        plan: what is measured.
        weights: folder of the checkpoint.
        data: folder of the text.
        work: folder for what the model writes to calibrate on.
    """

    def __init__(self, plan: LanguagePlan, weights: Path, data: Path, work: Path) -> None:
        for folder in (weights, data):
            if not folder.is_dir():
                raise RecipeError(f"there is no folder {folder}")
        self.plan, self.weights, self.work = plan, weights, work
        self.texts = Texts(data, AutoTokenizer.from_pretrained(weights), plan.length)
        self.softmax = self.load(LanguageWay("softmax"))
        self.reference: dict[str, Tensor] = {}

    @functools.cached_property
    def continuations(self) -> Continuations:
        """Of prompts of every kind."""
        plan, texts = self.plan, Texts(self.texts.data, self.texts.tokenizer, self.plan.prompt_length)
        prompts = torch.cat([texts.rows(kind, "test", plan.prompts, seed=1) for kind in plan.kinds])
        return Continuations.of(self.softmax, prompts, plan.continuation)

    def load(self, way: LanguageWay) -> PreTrainedModel:
        """The checkpoint in float32, as a way converts it, without its refit."""
        if way.polarity == 0:
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.weights, dtype=torch.float32)
            return model.eval()
        return hf_tanhmax.convert(self.weights, AutoModelForCausalLM, polarity=way.polarity, shift=way.shift, dtype=torch.float32)

    def lines(self, name: str, seed: int, wanted: list[str]) -> Iterator[dict[str, Any]]:
        """The lines of a way and a seed, as converted and fine-tuned, where they are wanted."""
        way, started = self.plan.ways[name], time.process_time()
        model = self.load(way) if way.polarity else self.softmax
        batches = self._calibration(way.times, seed) if way.mass is not None or way.refit else []
        spread = None if way.mass is None else vars(allocate(model, batches[::2], mass=way.mass))
        refitted = refit(model, batches, ridge=way.ridge).values() if way.refit else None
        conversion = {"seconds": round(time.process_time() - started, 1), "allocation": spread, "refit": refitted}
        about: dict[str, Any] = {
            "settings": asdict(way),
            "plan": {key: value for key, value in asdict(self.plan).items() if key != "ways"},
            "versions": versions(),
            "git": git_commit(),
            "hardware": hardware(),
        }
        for tuned in wanted:
            measured, training = model, None
            if tuned != UNTUNED:
                measured = copy.deepcopy(model)
                training = fine_tune(measured, self.texts, self.plan, self.plan.tunings[tuned], seed)
            line = {"way": name, "tuned": tuned, "seed": seed, **self.measure(measured), "conversion": conversion, "training": training}
            if way.continued and tuned == UNTUNED:
                line["continuations"] = self.continuations.compare(model) if way.polarity else self.continuations.in_bfloat16()
            yield {**line, **about}

    def _calibration(self, times: int, seed: int) -> list[dict[str, Tensor]]:
        """Batches of text of the kinds to calibrate on, and of text that the softmax model wrote, kept from one run to the next."""
        path = self.work / f"own-{seed}-{times}.safetensors"
        if not path.is_file():
            start = self.texts.tokenizer.bos_token_id
            if start is None:
                raise RecipeError("the tokenizer has no token that begins a text, so the model cannot write one by itself")
            own = sampled(self.softmax, start, times * self.plan.own_rows, self.plan.length, seed)
            self.work.mkdir(parents=True, exist_ok=True)
            save_file({"tokens": own}, path)
        texts = self.texts.mixed(self.plan.calibrated, "train", times * self.plan.calibration_rows, seed)
        return [{"input_ids": rows} for rows in torch.cat([texts, load_file(path)["tokens"]]).split(2)]

    def measure(self, model: PreTrainedModel) -> dict[str, Any]:
        """Test text of every kind, and signs on validation text."""
        signs_rows = self.texts.mixed(self.plan.kinds, "validation", self.plan.signs_rows * len(self.plan.kinds))
        tanhmax = hasattr(model.config, "tanhmax_polarity")
        return {
            "test": {kind: self._read(model, kind) for kind in self.plan.kinds},
            "signs": _signs(model, signs_rows) if tanhmax else {"overall": {"negative_mass": 0.0}},
        }

    @torch.no_grad()
    def _read(self, model: PreTrainedModel, kind: str) -> dict[str, Any]:
        """On the test rows of a kind: perplexity, its ratio to the softmax checkpoint's, and the KL from that, in nats per token."""
        rows = self.texts.rows(kind, "test", self.plan.test_rows)
        if kind not in self.reference:
            self.reference[kind] = torch.cat([_hidden(self.softmax, row) for row in rows])
        losses, softmax_losses, divergences = [], [], []
        for row, kept in zip(rows, self.reference[kind], strict=True):
            expected = _log_probabilities(self.softmax, kept)
            found = expected if model is self.softmax else _log_probabilities(model, _hidden(model, row)[0])
            losses.append(F.nll_loss(found[:-1], row[1:]).item())
            softmax_losses.append(F.nll_loss(expected[:-1], row[1:]).item())
            divergences.append((expected.exp() * (expected - found)).sum(-1).mean().item())
        mean, softmax_mean = (sum(each) / len(each) for each in (losses, softmax_losses))
        return {
            "perplexity": math.exp(mean),
            "ratio": math.exp(mean - softmax_mean),
            "kl": sum(divergences) / len(divergences),
            "losses": losses,
            "tokens": rows.numel() - len(rows),
        }


def fine_tune(model: PreTrainedModel, texts: Texts, plan: LanguagePlan, tuning: Tuning, seed: int) -> dict[str, float]:
    """Train all weights on rows that are the same for every way; matrix products in bfloat16, weights in float32."""
    rows = texts.mixed(tuning.kinds, "train", tuning.steps, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    total, warm = tuning.steps, plan.warmup_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / warm, (total - step) / (total - warm)))
    model.train()
    started, losses = time.process_time(), 0.0
    for row in rows:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(row[None], use_cache=False).logits[0, :-1]
        loss = F.cross_entropy(logits.float(), row[1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses += loss.item()
    model.eval()
    return {"steps": total, "tokens": rows.numel(), "train_loss": losses / total, "seconds": time.process_time() - started}


def _hidden(model: PreTrainedModel, row: Tensor) -> Tensor:
    hidden: Tensor = model.base_model(row[None], use_cache=False).last_hidden_state
    return hidden


def _log_probabilities(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.lm_head(hidden)
    return logits.float().log_softmax(-1)


def _signs(model: PreTrainedModel, rows: Tensor) -> dict[str, Any]:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # which returns weights
    try:
        return attention_health(
            model, [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows.split(1)], use_cache=False
        )
    finally:
        model.set_attn_implementation(before)
