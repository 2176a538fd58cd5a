"""What must hold of one architecture: the levels, in their order, each with what came of it.

Every comparison is measured against a yardstick: what the same model gives when each of its weights is moved by one rounding error. So a
model that amplifies rounding gets the tolerance that it needs, and no other does.
"""

import ast
import copy
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator

import tiny
import torch
import transformers
from definition import KEYLESS, SPECIAL, answer, oracle
from published import Reader
from running import aligned, copied, run, tensors_of
from silence import softmaxes
from torch import Tensor
from transformers import PreTrainedModel

import hf_tanhmax
from hf_tanhmax.models.family import HEADS

LEVELS = {
    "reloaded": "saved, and loaded by its Auto class: the same weights and outputs, to the bit",
    "softmax": "at polarity 0 the softmax model's outputs",
    "definition": "at polarity 1 the outputs of sinh and cosh in float64",
    "padding": "padded tokens change nothing",
    "future": "later tokens change nothing before them",
    "generated": "generates with a cache what it does without",
    "weights": "`output_attentions` gives the definition's weights, with their signs",
    "silent": "no softmax over attention scores is called",
    "learned": "a learned polarity, which at score bias 0 is polarity 1",
    "restored": "`to_softmax` gives the softmax model back, to the bit",
    "folder": "a folder of the softmax model is converted to what the live model is, to the bit",
    "published": "the published file gives the same outputs where this package is not installed, to the bit",
}
ROUNDINGS = 64  # rounding errors of a weight that a result may be off by
TOKENS = 4  # that are generated
EPSILON = torch.finfo(torch.float32).eps


class DoesNotApply(Exception):  # noqa: N818, nothing is wrong
    """A level that an architecture cannot have, in words that say why."""


def levels_of(model_type: str, levels: Iterable[str] = LEVELS) -> dict:
    """What came of every level of a model type, or of some.

    Returns:
        `outcome`, one of `works`, `refused`, `failed` and `untried`; `reason` for all but the first; and where it was converted, its
        `class`, `heads`, `softmax_parts`, `special` and `levels`: for each `passed`, or why it does not apply, or `failed: ...`.
    """
    start = time.monotonic()
    try:
        found = _levels(model_type, levels)
    except tiny.Untried as error:
        found = {"outcome": "untried", "reason": sentence(error)}
    return {"type": model_type, **found, "seconds": round(time.monotonic() - start, 1)}


def _levels(model_type: str, levels: Iterable[str]) -> dict:
    try:
        model = tiny.tiny_model(model_type)
    except tiny.Untried:
        raise
    except Exception as error:
        raise tiny.Untried(f"no tiny model: {described(error)}") from error
    found = {"class": type(model).__name__}
    try:
        inputs = tiny.tiny_inputs(model)
        if any(each.isnan().all() for each in run(model, inputs)):
            raise tiny.Untried("the outputs of the tiny softmax model are not numbers")
    except Exception as error:
        refusal = _refusal(model)
        if refusal is not None and parts_in(refusal) is None:  # whatever it is run with
            return found | {"outcome": "refused", "reason": refusal}
        if isinstance(error, tiny.Untried):
            raise
        raise tiny.Untried(f"the softmax model does not run: {described(error)}") from error
    trial = Trial(model, inputs)
    try:
        trial.converted = trial.convert()
    except Exception as error:
        if not refuses(error):
            return found | {"outcome": "failed", "reason": f"conversion: {described(error)}"}
        found |= {"outcome": "refused", "reason": sentence(error)}
        trial.parts = parts_in(found["reason"])
        if trial.parts is None:
            return found
        try:
            trial.converted = trial.convert()
        except Exception as error:
            return found | ({"reason": sentence(error)} if refuses(error) else {"outcome": "failed", "reason": described(error)})
        found["softmax_parts"] = trial.parts
    results = {name: _outcome(getattr(trial, name)) for name in levels}
    if not trial.telling:
        raise tiny.Untried("TanhMax and softmax give the same outputs of the tiny model, so that nothing is shown")
    failed = [f"{name}: {result}" for name, result in results.items() if result.startswith("failed")]
    found |= {
        "outcome": "failed" if failed else "works",
        "heads": sorted(HEADS[trial.converted.config_class]),
        "special": sorted(trial.special),
        "levels": results,
    }
    return found | ({"reason": failed[0]} if failed else {})


def _refusal(model: PreTrainedModel) -> str | None:
    """Why a model is not converted; None if it is."""
    try:
        hf_tanhmax.convert(copy.deepcopy(model))
    except Exception as error:
        return sentence(error) if refuses(error) else None
    return None


def refuses(error: Exception) -> bool:
    """Whether an error is a refusal of the package, and not one of Transformers on the way."""
    return isinstance(error, ValueError | NotImplementedError) and "/hf_tanhmax/" in traceback.extract_tb(error.__traceback__)[-1].filename


def parts_in(refusal: str) -> list[str] | None:
    """The softmax parts that a refusal says to accept."""
    named = re.search(r"softmax_parts=(\(.*?\))", refusal)
    return list(ast.literal_eval(named[1])) if named else None


def _outcome(level: Callable[[], None]) -> str:
    try:
        level()
    except DoesNotApply as error:
        return str(error)
    except Exception as error:
        return f"failed: {described(error)}"
    return "passed"


def sentence(error: BaseException) -> str:
    return " ".join(str(error).split())


def described(error: BaseException) -> str:
    """An error in one line, with the place in Transformers or here that it came from."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if re.search(r"transformers/|hf_tanhmax/|sweep/", frame.filename)
    ]
    place = f" ({frames[-1].filename.rsplit('/', 1)[1]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {sentence(error)[:300]}{place}"


class Trial:
    """One architecture: its softmax model, inputs for it, and its TanhMax model; each level is a method that raises if it fails."""

    def __init__(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
        self.model, self.inputs = model, inputs
        self.parts: list[str] | None = None
        self.converted: PreTrainedModel
        self.special: set[str] = set()
        self.leaking: set[str] = set()
        self.telling = True  # whether its outputs show how attention is computed

    def convert(self, **settings) -> PreTrainedModel:
        return hf_tanhmax.convert(copy.deepcopy(self.model), softmax_parts=self.parts, **settings).eval()

    def reloaded(self) -> None:
        auto = next((auto for auto, cls in HEADS[self.converted.config_class].items() if cls is type(self.converted)), None)
        loader = type(self.converted) if auto is None else getattr(transformers, auto)
        with tempfile.TemporaryDirectory() as folder:
            self.converted.save_pretrained(folder)
            again = loader.from_pretrained(folder).eval()
        if type(again) is not type(self.converted):
            raise AssertionError(f"{auto} loads a {type(again).__name__}")
        try:
            same_weights(again, self.converted)
            same(run(aligned(again), self.inputs), run(aligned(self.converted), self.inputs))
        except AssertionError:
            if lost := self._lost():
                raise DoesNotApply(lost) from None
            raise

    def _lost(self) -> str | None:
        """What to say of a softmax model that is not the same after it was saved and loaded; None of one that is."""
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            again = type(self.model).from_pretrained(folder).eval()
        try:
            same_weights(again, self.model)
            same(run(aligned(again), self.inputs), run(aligned(self.model), self.inputs))
        except AssertionError:
            return "the softmax model does not come back from its files either"
        return None

    def softmax(self) -> None:
        want, found = run(self.model, self.inputs), run(self.convert(polarity=0.0), self.inputs)
        allowed, kept = tolerances(self.model, self.inputs), self.kept(want)
        try:
            close(found, want, allowed, kept)
        except AssertionError:
            SPECIAL.clear()
            zeroed = run(oracle(self.model, polarity=0.0), self.inputs)
            if KEYLESS not in SPECIAL:  # for which softmax gives the mean of all values, or whatever
                raise
            close(found, zeroed, allowed, kept)

    def definition(self) -> None:
        SPECIAL.clear()
        printed = oracle(self.model)
        want = run(printed, self.inputs)
        self.special |= SPECIAL - {KEYLESS}
        found, allowed, kept = run(self.converted, self.inputs), tolerances(printed, self.inputs), self.kept(want)
        close(found, want, allowed, kept)
        try:
            close(found, run(self.model, self.inputs), [10 * each for each in allowed], kept)
        except AssertionError:
            return
        self.telling = False
        raise DoesNotApply("TanhMax and softmax give the same")

    def kept(self, outputs: list[Tensor]) -> list[Tensor | None]:
        """For each output that has a row per token, the tokens that are no padding."""
        masks = [self.inputs[name].bool() for name in ("attention_mask", "decoder_attention_mask") if name in self.inputs]
        masks = [mask for mask in masks if mask.dim() == 2]
        return [next((mask for mask in masks if each.shape[:2] == mask.shape), None) for each in outputs]

    def padding(self) -> None:
        mask = self.inputs.get("attention_mask")
        ids = self.inputs.get("input_ids")
        if ids is None or mask is None or mask.shape != ids.shape or mask.bool().all():
            raise DoesNotApply("no padded text")
        changed = self.inputs | {"input_ids": torch.where(mask.bool(), ids, exchanged(ids))}
        self._unmoved(self.inputs, changed, lambda outputs: self.kept(outputs), "padding")

    def future(self) -> None:
        name = "decoder_input_ids" if "decoder_input_ids" in self.inputs else "input_ids"
        ids = self.inputs.get(name)
        if ids is None or ids.dim() != 2 or ids.shape[1] < 5:
            raise DoesNotApply("no text")
        late = torch.arange(ids.shape[1]) >= ids.shape[1] - 3
        inputs = unpadded(self.inputs)
        changed = inputs | {name: torch.where(late, exchanged(ids), ids)}
        early = (~late).expand(ids.shape)
        self._unmoved(inputs, changed, lambda outputs: [early if each.shape[:2] == ids.shape else None for each in outputs], "the future")

    def _unmoved(self, inputs: dict, changed: dict, masks: Callable[[list[Tensor]], list[Tensor | None]], what: str) -> None:
        """Of the outputs that have a mask, the rows in it are the same for changed inputs, if they are in the softmax model."""

        def moved(model: PreTrainedModel) -> None:
            one, other = run(model, inputs), run(model, changed)
            chosen = [index for index, mask in enumerate(masks(one)) if mask is not None]
            if not chosen:
                raise DoesNotApply("no output per token")
            allowed = tolerances(model, inputs)
            pick = lambda values: [values[index] for index in chosen]  # noqa: E731
            close(pick(other), pick(one), pick(allowed), pick(masks(one)))

        try:
            moved(self.model)
        except AssertionError:
            self.leaking.add(what)
            raise DoesNotApply(f"{what} reaches the softmax model too") from None
        moved(self.converted)

    def generated(self) -> None:
        if not self.model.can_generate():
            raise DoesNotApply("no text to generate")
        if "the future" in self.leaking:
            raise DoesNotApply("the future reaches the softmax model too, so no cache can hold what it computes")
        inputs = {name: value for name, value in unpadded(self.inputs).items() if name not in ("decoder_input_ids", "labels")}
        inputs = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
        try:
            generate(self.model, inputs, use_cache=False)
        except Exception as error:
            raise DoesNotApply(f"the softmax model does not generate from these inputs: {type(error).__name__}") from error
        try:
            self._same_with_cache(inputs)
        except AssertionError:
            raise
        except Exception as error:
            if any(fails(generate, self.model, others, use_cache=False) for others in redrawn(inputs)):
                raise DoesNotApply(f"the softmax model does not generate from all inputs: {type(error).__name__}") from error
            raise

    def _same_with_cache(self, inputs: dict[str, Tensor]) -> None:
        """Logits, or tokens where there are none, may differ as rounding has it, or some times as much as those of the softmax model do."""
        outputs, differences, allowed = with_and_without_cache(self.converted, inputs)
        if all(off <= most for off, most in zip(differences, allowed, strict=True)):
            return
        _, stock, most = with_and_without_cache(self.model, inputs)
        if any(off > each for off, each in zip(stock, most, strict=True)):
            raise DoesNotApply("the softmax model's cache changes what it generates, too")
        allowed = [max(pair) for pair in zip(allowed, [ROUNDINGS * max(stock)] * len(allowed), strict=True)]
        close(*outputs, allowed, [None] * len(allowed))

    def weights(self) -> None:
        try:
            wanted = attentions(answer(copy.deepcopy(self.model), "eager"), self.inputs)
        except Exception:
            wanted = []
        if not wanted:
            raise DoesNotApply("no attention weights")
        if any(each.isnan().all() for each in wanted):
            raise DoesNotApply("those of the softmax model are not numbers")
        printed = answer(oracle(self.model), "eager")
        definition = attentions(printed, self.inputs)
        if self.parts and not any((each < 0).any() for each in definition):
            raise DoesNotApply("the weights are those of parts that stay softmax")
        found = attentions(answer(copy.deepcopy(self.converted), "eager"), self.inputs)
        if [each.shape for each in found] != [each.shape for each in wanted]:
            raise AssertionError(f"{len(found)} of {len(wanted)} weights, of shapes {[*map(tuple, {each.shape for each in found})]}")
        if not any((each < 0).any() for each in found):
            raise AssertionError("no weight is negative")
        if any((each.abs() > 1 + 16 * EPSILON).any() and (stock <= 1).all() for each, stock in zip(found, wanted, strict=True)):
            raise AssertionError("a weight is above 1")
        if [each.shape for each in found] == [each.shape for each in definition]:
            allowed = deviations(printed, lambda: attentions(printed, self.inputs))
            close(found, definition, allowed, [None] * len(found))

    def silent(self) -> None:
        if not softmaxes(self.model, self.inputs, run):
            raise AssertionError("the softmax model calls no softmax that is noticed")
        accepted = [path for path, module in self.convert().named_modules() if type(module).__name__ in (self.parts or ())]
        called = softmaxes(self.converted, self.inputs, run)
        paths = {module: path for path, module in self.converted.named_modules()}
        silent = {str(each) for each in called if not any(paths.get(each.owner, "").startswith(path) for path in accepted)}
        if silent:
            raise AssertionError(f"softmax in {', '.join(sorted(silent))}")

    def learned(self) -> None:
        try:
            learned = self.convert(polarity="learned", score_bias=0.0)
        except ValueError as error:
            if refuses(error):
                raise DoesNotApply(sentence(error)) from None
            raise
        want = run(self.converted, self.inputs)
        close(run(learned, self.inputs), want, tolerances(self.converted, self.inputs), self.kept(want))
        with tempfile.TemporaryDirectory() as folder:
            learned.save_pretrained(folder)
            again = type(learned).from_pretrained(folder).eval()
        biases = [name for name in learned.state_dict() if name.endswith("tanhmax_score_bias")]
        if not biases or any(not torch.equal(again.state_dict()[name], learned.state_dict()[name]) for name in biases):
            raise AssertionError("the score biases do not come back from their file")

    def restored(self) -> None:
        back = hf_tanhmax.to_softmax(self.convert()).eval()
        if type(back) is not type(self.model):
            raise AssertionError(f"to_softmax gives a {type(back).__name__}")
        same_weights(back, self.model)
        same(run(aligned(back), self.inputs), run(aligned(self.model), self.inputs))

    def folder(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            cls = type(self.model)
            try:
                made = hf_tanhmax.convert(folder, cls, softmax_parts=self.parts).eval()
            except Exception as error:
                if refuses(error):
                    raise DoesNotApply(self._lost() or sentence(error).replace(folder, "the folder")) from None
                raise
        if type(made) is not type(self.converted):
            raise AssertionError(f"the folder gives a {type(made).__name__}")
        try:
            same_weights(made, self.converted)
            same(run(aligned(made), self.inputs), run(aligned(self.converted), self.inputs))
        except AssertionError:
            if lost := self._lost():
                raise DoesNotApply(lost) from None
            raise

    def published(self) -> None:
        auto = next((auto for auto, cls in HEADS[self.converted.config_class].items() if cls is type(self.converted)), None)
        with tempfile.TemporaryDirectory() as folder:
            self.converted.save_pretrained(folder)
            asked = (folder, auto, type(self.converted).__name__, self.inputs)
            wanted = run(aligned(type(self.converted).from_pretrained(folder).eval()), self.inputs)
            found = WITHOUT.ask(*asked)
            if any(not torch.equal(one, other) for one, other in zip(found, wanted, strict=True)):
                wanted = WITH.ask(*asked)  # as memory that was in use before may make sums round otherwise
        try:
            same(found, wanted)
        except AssertionError:
            if lost := self._lost():
                raise DoesNotApply(lost) from None
            raise


WITHOUT, WITH = Reader(package=False), Reader(package=True)


# Running


@torch.no_grad()
def generate(model: PreTrainedModel, inputs: dict[str, Tensor], *, use_cache: bool) -> list[Tensor]:
    """What a model generates, greedily: tokens, and the logits of each, where it gives them."""
    torch.manual_seed(0)
    config = model.config
    options = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "num_beams": 1, "use_cache": use_cache}
    padding = getattr(config, "pad_token_id", None)  # whose embedding is 0, as are its scores and so its TanhMax weights
    options |= {} if padding is None else {"suppress_tokens": [padding]}
    begins = any(getattr(config, name, None) is not None for name in ("decoder_start_token_id", "bos_token_id"))
    options |= {} if begins or not config.is_encoder_decoder else {"decoder_start_token_id": 1}
    found = model.generate(**copied(inputs), **options, return_dict_in_generate=True, output_logits=True)
    tokens = getattr(found, "sequences", found)
    if not isinstance(tokens, Tensor):
        raise TypeError(f"generate gives a {type(tokens).__name__}")
    return [tokens.double(), *(getattr(found, "logits", None) or ())]


def fails(function: Callable, *args, **options) -> bool:
    """Whether a call raises."""
    try:
        function(*args, **options)
    except Exception:
        return True
    return False


def redrawn(inputs: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Some inputs of the same kind, with other numbers."""
    generator = torch.Generator().manual_seed(5)
    for scale in range(1, 7):
        yield {
            name: scale * torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
            for name, value in inputs.items()
        }


def with_and_without_cache(model: PreTrainedModel, inputs: dict[str, Tensor]) -> tuple[list[list[Tensor]], list[float], list[float]]:
    """What a model generates with a cache, and without, their differences, and those that rounding may make."""
    allowed = deviations(model, lambda: generate(model, inputs, use_cache=False))
    outputs = [generate(model, inputs, use_cache=use) for use in (True, False)]
    if len(outputs[0]) > 1:  # rounding may choose other tokens, but not where logits are apart
        outputs, allowed = [each[1:] for each in outputs], allowed[1:]
    return outputs, [difference(one, other) for one, other in zip(*outputs, strict=True)], allowed


@torch.no_grad()
def attentions(model: PreTrainedModel, inputs: dict[str, Tensor]) -> list[Tensor]:
    torch.manual_seed(0)
    output = model(**copied(inputs), output_attentions=True, return_dict=True)
    found = [value for name, value in output.items() if name.endswith("attentions")] if hasattr(output, "items") else []
    return [each for each in tensors_of(found) if each.dim() == 4]


def unpadded(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same inputs, of which all tokens count."""
    return {
        name: torch.ones_like(value) if name.endswith("attention_mask") and value.dim() == 2 else value for name, value in inputs.items()
    }


def exchanged(ids: Tensor) -> Tensor:
    """Other tokens in the place of the last ones, all of them some that the model knows as text."""
    known = ids[..., -4:].unique()
    if len(known) < 2:
        raise DoesNotApply("no two tokens of text to exchange")
    return known[(torch.searchsorted(known, ids.contiguous()).clamp_max(len(known) - 1) + 1) % len(known)]


# Comparing


def deviations(model: PreTrainedModel, outputs: Callable[[], list[Tensor]], draws: int = 1) -> list[float]:
    """For each output, by how much it may be off: some times what a rounding error in every weight does to it.

    Args:
        model: whose weights are moved, and put back.
        outputs: runs the model.
        draws: of rounding errors, of which the worst counts.
    """
    base, worst = outputs(), None
    generator = torch.Generator().manual_seed(3)
    weights = [each for each in model.parameters() if each.is_floating_point()]
    before = [each.detach().clone() for each in weights]
    try:
        for _ in range(draws):
            with torch.no_grad():
                for each, value in zip(weights, before, strict=True):
                    each.copy_(value * (1 + EPSILON * torch.randint(-1, 2, value.shape, generator=generator)))
            moved = [difference(one, other) for one, other in zip(outputs(), base, strict=True)]
            worst = moved if worst is None else [max(pair) for pair in zip(worst, moved, strict=True)]
    finally:
        with torch.no_grad():
            for each, value in zip(weights, before, strict=True):
                each.copy_(value)
    scales = [each[usual(each)].abs().max().item() if usual(each).any() else 0.0 for each in base]
    return [ROUNDINGS * (off + EPSILON * scale) for off, scale in zip(worst or [], scales, strict=True)]


def tolerances(model: PreTrainedModel, inputs: dict[str, Tensor]) -> list[float]:
    return deviations(model, lambda: run(model, inputs), draws=2)


def usual(values: Tensor) -> Tensor:
    """Which numbers are finite, and not the least or largest there is, as logits of what is ruled out are."""
    return values.isfinite() & (values.abs() < 1e30)


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference; numbers that are not usual must be the same."""
    if one.shape != other.shape:
        return float("inf")
    both = usual(one) & usual(other)
    if not torch.equal(one[~both].nan_to_num(nan=7.0), other[~both].nan_to_num(nan=7.0)):
        return float("inf")
    return (one[both].double() - other[both].double()).abs().max().item() if both.any() else 0.0


def close(found: list[Tensor], wanted: list[Tensor], allowed: list[float], kept: list[Tensor | None]) -> None:
    if not wanted or len(found) != len(wanted):
        raise AssertionError(f"{len(found)} outputs instead of {len(wanted)}")
    for index, (have, want, tolerance, rows) in enumerate(zip(found, wanted, allowed, kept, strict=True)):
        if tolerance == float("inf"):
            raise AssertionError(f"output {index} is infinite in other places after a rounding error in every weight")
        off = difference(have, want) if rows is None or have.shape != want.shape else difference(have[rows], want[rows])
        if not off <= tolerance:
            raise AssertionError(f"output {index} of shape {tuple(want.shape)} is off by {off:.1e}, and may be by {tolerance:.1e}")


def same(found: list[Tensor], wanted: list[Tensor]) -> None:
    close(found, wanted, [0.0] * len(wanted), [None] * len(wanted))


def same_weights(one: PreTrainedModel, other: PreTrainedModel) -> None:
    have, want = one.state_dict(), other.state_dict()
    if have.keys() != want.keys():
        raise AssertionError(f"other weights: {sorted(have.keys() ^ want.keys())[:3]}")
    changed = [name for name, value in want.items() if not torch.equal(have[name].nan_to_num(), value.nan_to_num())]
    if changed:
        raise AssertionError(f"{len(changed)} weights changed: {changed[:3]}")
