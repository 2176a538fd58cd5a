"""How far a softmax decoder is from TanhMax before any training: its perplexity on a text at one polarity after another.

python -m recipes.benchmarks.polarity_scan MODEL TEXT.txt [--rows 16] [--length 64] [--out scan.json]

A head whose scores all lie far below 0 is nothing special to softmax, which does not see where they lie. TanhMax gives keys of negative
scores negative weights, so such a head changes at the smallest polarity. What this prints says whether annealing has an easy way to go, and
where a learned polarity, exp(-2c), must start to leave the model as it was.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import hf_tanhmax
from hf_tanhmax.errors import RecipeError, one_line
from hf_tanhmax.provenance import hardware, versions
from hf_tanhmax.results import table, write_json
from hf_tanhmax.training.data.tokenizer import load_tokenizer

from ..command_line import Parser, exit_codes

POLARITIES = (0.0, 1e-12, 1e-9, 1e-6, 1e-4, 1e-2, 1.0)


@exit_codes()
def main(arguments: list[str] | None = None) -> int:
    """Print the table; 2 if something the user gave cannot work."""
    parser = Parser(prog="python -m recipes.benchmarks.polarity_scan", description=__doc__)
    parser.add_argument("model", help="folder or Hub name of a softmax decoder of the LLaMA family")
    parser.add_argument("text", type=Path, help="a text file")
    parser.add_argument("--rows", type=int, default=16, help="rows that are read (default: 16)")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row (default: 64)")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    chosen = parser.parse_args(arguments)
    result = scan(chosen.model, chosen.text, rows=chosen.rows, length=chosen.length)
    print(report(result))
    if chosen.out is not None:
        write_json(chosen.out, result)
    return 0


def scan(name: str, text: Path, *, rows: int, length: int, polarities: Sequence[float] = POLARITIES) -> dict[str, Any]:
    """The perplexity at each polarity, with everything that it depends on.

    Args:
        name: of a softmax checkpoint.
        text: its first `rows * length` tokens are read.
        rows: read apart from each other.
        length: tokens of a row.
        polarities: in [0, 1].

    Raises:
        RecipeError: no such model or text, or too short a text.
    """
    if not text.is_file():
        raise RecipeError(f"there is no file {text}")
    tokenizer = load_tokenizer(name)
    ids = tokenizer(text.read_text(encoding="utf-8"), return_tensors="pt", verbose=False)["input_ids"][0]
    if len(ids) < rows * length:
        raise RecipeError(f"{text} has {len(ids)} tokens, but {rows} rows of {length} were asked for")
    try:
        model = hf_tanhmax.convert(name, AutoModelForCausalLM, polarity=0.0, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot convert {name!r}: {one_line(error, 300)}") from error
    batch = ids[: rows * length].view(rows, length)
    found = []
    for polarity in polarities:
        hf_tanhmax.set_polarity(model, polarity)
        found.append([polarity, _perplexity(model, batch)])
    place = "/".join(Path(name).parts[-2:])
    return {
        "model": place,
        "text": text.name,
        "tokens": rows * length,
        "perplexity": found,
        "versions": versions(),
        "hardware": hardware(),
    }


def report(result: dict[str, Any], *, markdown: bool = False) -> str:
    """The table, one column per polarity."""
    header = ["polarity", *(f"{polarity:g}" for polarity, _ in result["perplexity"])]
    cells = [[f"perplexity on {result['tokens']:,} tokens", *(f"{value:,.1f}" for _, value in result["perplexity"])]]
    return table(header, cells, markdown=markdown)


def _perplexity(model: Any, ids: Tensor) -> float:
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[:, :-1].float()
    return math.exp(nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
