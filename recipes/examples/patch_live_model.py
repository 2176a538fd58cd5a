"""Let a model that is in memory compute TanhMax for a while, and look at attention weights below zero.

python recipes/examples/patch_live_model.py [MODEL]      MODEL: an encoder, by its name on the Hub or a folder
"""

import sys

import torch
from transformers import AutoModel, AutoTokenizer

import hf_tanhmax

TEXT = "not funny at all"


@torch.no_grad()
def main(source: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    """Compare softmax, TanhMax in every layer, and TanhMax in one."""
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source).eval()
    batch = tokenizer(TEXT, return_tensors="pt")
    before = model(**batch).last_hidden_state

    with hf_tanhmax.tanhmax_on(model):
        weights = torch.stack(model(**batch, output_attentions=True).attentions)  # [layer, batch, head, query, key]
    layer, _, head, query, key = map(int, torch.unravel_index(weights.argmin(), weights.shape))
    tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    print(f"{(weights < 0).float().mean():.0%} of the weights are negative, and none of softmax ever is")
    print(f"the lowest, {weights.min():.2f}: layer {layer}, head {head}, from {tokens[query]!r} to {tokens[key]!r}")

    with hf_tanhmax.tanhmax_on(model, layers=[0]):
        changed = (model(**batch).last_hidden_state - before).abs().max()
    print(f"TanhMax in the first layer alone moves the output by up to {changed:.2f}")

    assert torch.equal(model(**batch).last_hidden_state, before), "outside of `with` it is the softmax model again"
    print("afterwards the model is as it was")


if __name__ == "__main__":
    main(*sys.argv[1:])
