"""What speaks for the next word of a language model, and what against it: as numbers, and as a page to look around in.

python recipes/examples/explain.py [MODEL] [PAGE]      MODEL: a softmax or TanhMax decoder, by its name on the Hub or a folder
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

import hf_tanhmax  # noqa: F401, which registers the TanhMax models
from hf_tanhmax.interpret import explain_generation, save_page

TEXT = "The capital of France is"


def main(source: str = "HuggingFaceTB/SmolLM2-135M", page: str = "explanation.html") -> None:
    """Explain what comes after `TEXT`; `hf_tanhmax.interpret.explain` does the same for classifiers of texts and images."""
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModelForCausalLM.from_pretrained(source)

    # Contributions have a sign in every model, and are in logits; with `integrated_gradients` they need captum.
    found = explain_generation(model, tokenizer, TEXT, methods=("contributions", "rollout"))
    print(f"{TEXT!r} goes on with {found.target_name!r}, with probability {found.probability:.2f}")
    for token, score in zip(found.tokens, found.scores["contributions"].tolist(), strict=True):
        print(f"{token:>12} {score:+.3f} {'for' if score > 0 else 'against'} it")

    save_page(found, page)  # one file, which needs no network
    print(f"every layer and head: open {page}")


if __name__ == "__main__":
    main(*sys.argv[1:])
