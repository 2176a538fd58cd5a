"""Models whose weights are those of softmax, inputs to convert them with, and a report of it, as `conversion.json` holds it."""

import torch
from families import BACKBONES, images, run, text, tiny_model

from hf_tanhmax.conversion.refitting import RefitReport
from hf_tanhmax.conversion.report import AlignmentReport, ConversionReport, Quality, TransferReport

ALIGNMENT = AlignmentReport(0.2, 1e-3, 6636, 8, 4.5, (0.5, 0.25), (0.4, 0.6), (0.125, 0.25), 0.4961, 0.9342)
ALIGNED = (
    "was aligned for polarity 1 at balance 0.2 on 6,636 tokens: hidden states there have cosine 0.934 to those of softmax (0.496 "
    "before), and 19 % of the attention weight is negative (50 % before)"
)
TRANSFER = TransferReport(
    *(60, 3e-4, 0.15, 9000, 7.5, (0.5, 0.25), (0.25, 0.125), (0.125, 0.25), (0.25, 0.125), 0.9, 0.95), originals={"query": torch.ones(2)}
)
TRANSFERRED = (
    "had its queries and keys trained by attention transfer for 60 steps on 9,000 tokens: the error of a layer is 0.188 (0.375 before), "
    "hidden states have cosine 0.950 to those of softmax (0.900 before), and 19 % of the attention weight is negative (19 % before)"
)
REFIT = RefitReport(1.0, 1e-2, True, 6636, 8, 4.5, ("layer.0", "layer.1"), (0.5, 0.25), (0.25, 0.125), {"output": torch.zeros(3)})
QUALITY = Quality(True, 700, 0.75, 0.0125, None, None, 36.0, 267864.0, 36.66, (0.08, 0.1), ((2, 3, 0.05), (4, 7, 0.09), (64, 127, 0.14)))
MEASURED = (
    "on 700 outputs that nothing was fitted to, probabilities have a divergence from those of softmax of 0.0125 nats (0.75 before), "
    "perplexity is 36.66 (softmax 36.00; 267,864.00 before), and 9 % of the attention weight is negative (5 % where a query sees 2 to 3 "
    "keys, 14 % where a query sees 64 to 127 keys)"
)
REPORT = ConversionReport(1.0, None, 0.2, 6636, 5.5, ALIGNMENT, quality=QUALITY)
IN_WORDS = f"{ALIGNED}; {MEASURED}"
REFITTED = ConversionReport(1.0, None, 0.2, 6636, 20.5, ALIGNMENT, TRANSFER, REFIT, QUALITY)


def trained(family, dtype=torch.float64, **changes):
    """A TanhMax backbone whose biases and scores are as arbitrary as training for softmax leaves them."""
    model = tiny_model(BACKBONES[family], **changes)
    generator = torch.Generator().manual_seed(3)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            value.data.normal_(0, 0.7, generator=generator)
    return model.to(dtype)


def silenced(model, *parts):
    """The BERT model with 0 as what these projections, such as `"value"`, of its first layer compute."""
    for part in parts:
        projection = model.get_submodule(f"encoder.layer.0.attention.self.{part}")
        projection.weight.data.zero_()
        projection.bias.data.zero_()
    return model


def batches(family, count=3):
    """Inputs, of texts with padding."""
    if family == "vit":
        return [{"pixel_values": images(4).roll(shift, 0) * (1 + shift)} for shift in range(count)]
    mask = torch.ones(4, 11, dtype=torch.int64)
    mask[1, 8:] = mask[3, 5:] = 0
    return [{"input_ids": text(4, 11).roll(shift, 1), "attention_mask": mask} for shift in range(count)]


def hidden(model, batch):
    """Last hidden states of the real tokens at the polarity that the model has."""
    states = run(model, {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in batch.items()})
    mask = batch.get("attention_mask")
    return states.last_hidden_state[mask.bool()] if mask is not None else states.last_hidden_state.flatten(0, 1)
