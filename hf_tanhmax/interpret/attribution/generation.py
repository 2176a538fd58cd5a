r"""Attribution over a whole generation: every token that a causal model wrote, by every token before it.

* `input_x_gradient`: the gradient of the written token's logit at each earlier embedding, times that embedding. One forward pass, and one
  backward pass per written token. Nothing promises that a row adds up to its logit; how far it is off is told.
* `sequential_integrated_gradients` (Enguehard 2023): integrated gradients of one earlier token at a time, from a baseline token to it with
  all others as they are. On such a path the dimensions of an embedding add up, by the fundamental theorem, to what the logit loses where
  the baseline token stands there, with no gap:

  .. math:: \sum_d (x_{id} - b_d) \int_0^1 \frac{\partial F}{\partial x_{id}}(x_{<i}, b + \alpha (x_i - b), x_{>i})\, d\alpha
            = F(x) - F(x_{<i}, b, x_{>i}).

  So no path is walked: one forward pass per earlier token gives the scores of all written tokens behind it. They are not divided by a norm
  as in the paper, and stay logits. A row is set against what its logit loses where every earlier token is the baseline's.

The model writes greedily, as `generate(do_sample=False)`. What it wrote otherwise can be given.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...checkpoint import length_limit, text_config
from ...choices import GENERATION_METHODS, check_choice
from ..inputs.encoding import IDS, ModelInput, encode
from ..inputs.word_alignment import token_texts
from .conservation import CHANGE, Conservation
from .evaluation_mode import check_finite, display_name, encoder_of, evaluation_mode, input_embeddings, unwrap
from .forward_passes import without_cache
from .integrated_gradients import TOKENS_PER_BATCH, baseline_token

LONGEST = 512  # tokens of text and generation together: passes and scores grow with its square
FAR_ROWS = "{} of {} rows are far from what they should add up to, as conservation tells"


@dataclass(frozen=True)
class GenerationExplanation:
    """Every written token by every token before it; G written tokens, K tokens in all, float32 on the CPU.

    Attributes:
        model_name: for titles.
        family: the model type of Transformers, such as "llama".
        method: one of `GENERATION_METHODS`.
        tokens: all K, readable.
        prompt: how many of them were there before the model wrote.
        targets: indices of the written tokens in the vocabulary, G.
        logits: of the written tokens where they were written, `[G]`.
        probabilities: the same after softmax, `[G]`.
        scores: `[G, K]`, in logits; positive speaks for the written token. A token and those behind it have 0.
        conservation: what each row adds up to and should, G.
        notes: sentences for the reader.
    """

    model_name: str
    family: str
    method: str
    tokens: tuple[str, ...]
    prompt: int
    targets: tuple[int, ...]
    logits: Tensor
    probabilities: Tensor
    scores: Tensor
    conservation: tuple[Conservation, ...]
    notes: tuple[str, ...] = ()

    @property
    def written(self) -> tuple[str, ...]:
        """The tokens that the model wrote."""
        return self.tokens[self.prompt :]

    def to_json(self) -> str:
        """All numbers; of row g those of the tokens before the written one."""
        plain = ("model_name", "family", "method", "tokens", "prompt", "targets", "notes")
        told = {name: getattr(self, name) for name in plain}
        told |= {"logits": self.logits.tolist(), "probabilities": self.probabilities.tolist()}
        told["scores"] = [row[: self.prompt + place].tolist() for place, row in enumerate(self.scores)]
        told["conservation"] = [each.as_dict() for each in self.conservation]
        return json.dumps(told, indent=1)

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")


def explain_whole_generation(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    text: ModelInput,
    *,
    new_tokens: int = 20,
    written: Sequence[int] | None = None,
    method: str = "input_x_gradient",
    longest: int = LONGEST,
) -> GenerationExplanation:
    """Let a causal language model continue a text, and attribute every token that it writes to every token before.

    Args:
        model: a decoder, such as `TanhMaxLlamaForCausalLM`; softmax works too.
        tokenizer: of the model; needed for a text.
        text: the text so far, or an encoded batch of one.
        new_tokens: how many tokens it writes at most; it ends at an end token.
        written: what was written already, as indices of the vocabulary; the model then writes nothing.
        method: `"input_x_gradient"` or `"sequential_integrated_gradients"`.
        longest: the most tokens of text and generation together.

    Raises:
        ValueError: a model that does not write texts or writes them from an encoder, another method, a generation that is too long or
            empty, a written token that is not in the vocabulary; scores that are not finite.
    """
    check_choice("method", [method], GENERATION_METHODS)
    inner = unwrap(model)
    _check_decoder(inner)
    with evaluation_mode(inner):
        encoded = encode(inner, text, tokenizer=tokenizer)
        prompt = encoded.inputs[IDS]
        if written is None:
            _check_length(inner, tokenizer, prompt.shape[1], new_tokens, longest)
            ids = _written(inner, prompt, new_tokens)
        else:
            _check_written(inner, written)
            _check_length(inner, tokenizer, prompt.shape[1], len(written), longest)
            ids = torch.cat([prompt, prompt.new_tensor([list(written)])], dim=1)
        compute = {"input_x_gradient": _input_x_gradient, "sequential_integrated_gradients": _sequential}[method]
        logits, rows, expected = compute(inner, tokenizer, ids, prompt.shape[1])
    targets = ids[0, prompt.shape[1] :].tolist()
    check_finite(inner, {"the scores": rows, "the logits": logits})
    chosen = torch.arange(len(targets)), torch.tensor(targets)
    expected_is = "the logit" if method == "input_x_gradient" else CHANGE
    conservation = tuple(Conservation.of(row, float(value), expected_is) for row, value in zip(rows, expected, strict=True))
    far = sum(each.is_far for each in conservation)
    return GenerationExplanation(
        model_name=display_name(inner),
        family=str(inner.config.model_type).removeprefix("tanhmax_"),
        method=method,
        tokens=token_texts(tokenizer, ids[0].tolist()),
        prompt=prompt.shape[1],
        targets=tuple(targets),
        logits=logits[chosen],
        probabilities=logits.softmax(-1)[chosen],
        scores=rows,
        conservation=conservation,
        notes=(FAR_ROWS.format(far, len(conservation)),) if far else (),
    )


def _check_decoder(model: PreTrainedModel) -> None:
    kind = type(model).__name__
    can_generate = getattr(model, "can_generate", None)
    if can_generate is None or not can_generate():
        raise ValueError(f"{kind} does not write texts, so there is no generation to explain; give a causal language model")
    if encoder_of(model) is not None:
        raise ValueError(
            f"{kind} writes from an encoder, whose tokens are not before those it writes; give a decoder, or explain_generation one token"
        )


def _check_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, prompt: int, new_tokens: int, longest: int) -> None:
    if new_tokens < 1:
        raise ValueError(f"a generation has at least one new token, but got {new_tokens}")
    total, most = prompt + new_tokens, min(longest, length_limit(model, tokenizer) or longest)
    if total > most:
        raise ValueError(
            f"the generation is too long: {prompt} tokens of the text and {new_tokens} new ones are {total}, but at most {most} are "
            "explained together; give a shorter text or fewer new tokens"
        )


def _check_written(model: PreTrainedModel, written: Sequence[int]) -> None:
    size = text_config(model).vocab_size
    for token in written:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < size:
            raise ValueError(f"written token {token!r} is not in the vocabulary: the model has {size} tokens, 0 to {size - 1}")


@torch.no_grad()
def _written(model: PreTrainedModel, prompt: Tensor, new_tokens: int) -> Tensor:
    """The text and what the model writes, `[1, K]`."""
    end = getattr(model.generation_config, "eos_token_id", None)
    ends = {end} if isinstance(end, int) else set(end or ())
    ids = prompt
    for _ in range(new_tokens):
        token = model(input_ids=ids, **without_cache(model)).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, token], dim=1)
        if int(token) in ends:
            break
    return ids


def _input_x_gradient(model: PreTrainedModel, _: PreTrainedTokenizerBase | None, ids: Tensor, prompt: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the whole vocabulary `[G, V]`, scores `[G, K]` and what each row should add up to `[G]`."""
    embeddings: list[Tensor] = []

    def _leaf(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        embeddings.append(output.detach().requires_grad_())
        return embeddings[-1]

    handle = input_embeddings(model).register_forward_hook(_leaf)
    try:
        logits = model(input_ids=ids[:, :-1], **without_cache(model)).logits[0, prompt - 1 :]
    finally:
        handle.remove()
    rows = torch.zeros(len(logits), ids.shape[1])
    targets = ids[0, prompt:].tolist()
    for place, target in enumerate(targets):
        (gradient,) = torch.autograd.grad(logits[place, target], embeddings[0], retain_graph=place + 1 < len(targets))
        rows[place, :-1] = (gradient * embeddings[0].detach())[0].float().sum(-1).cpu()
    found = logits.detach().float().cpu()
    return found, rows, found[torch.arange(len(targets)), torch.tensor(targets)]


@torch.no_grad()
def _sequential(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, ids: Tensor, prompt: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, by what each logit loses where one earlier token is the baseline's."""
    context, baseline = ids[:, :-1], baseline_token(model, tokenizer)
    chosen = ids[0, prompt:]

    def _logits(rows: Tensor) -> Tensor:
        return model(input_ids=rows, **without_cache(model)).logits[:, prompt - 1 :].float().cpu()

    logits = _logits(context)[0]
    index = torch.arange(len(chosen)), chosen.cpu()
    whole = logits[index]
    rows = torch.zeros(len(chosen), ids.shape[1])
    count = context.shape[1]
    at_once = max(1, TOKENS_PER_BATCH // count)
    for start in range(0, count, at_once):
        places = torch.arange(start, min(start + at_once, count))
        replaced = context.repeat(len(places), 1)
        replaced[torch.arange(len(places)), places] = baseline
        rows[:, places] = whole[:, None] - _logits(replaced)[:, index[0], index[1]].T
    earlier = torch.arange(ids.shape[1])[None] < prompt + index[0][:, None]
    empty = _logits(torch.full_like(context, baseline))[0][index]
    return logits, rows * earlier, whole - empty
