"""A BERT whose log-odds are a mean over its tokens, so that everything that erases tokens or heads has a closed form."""

import torch
from families import tiny_config
from torch import nn

import hf_tanhmax

HEADS, SIZE = 2, 8


class First(nn.Module):
    """The first position, in the place of a pooler."""

    def forward(self, hidden):
        return hidden[:, 0]


@torch.no_grad()
def bag_of_words(worth, shares=(0.75, 0.25), *, sharpness=0.0, polarity=0.0):
    """A classifier of two classes; class 1 has the log-odds `sum_hj w_hj shares[h] worth[token j]`, w the first row of weights of head h.

    Args:
        worth: one number per token of the vocabulary.
        shares: of the heads.
        sharpness: queries and keys are so many times the embeddings; 0 leaves every weight of softmax 1 / n.
        polarity: 0 is softmax.
    """
    config = tiny_config("bert", vocab_size=len(worth), hidden_size=SIZE, num_attention_heads=HEADS, num_hidden_layers=1)
    config.tanhmax_polarity = polarity
    model = hf_tanhmax.TanhMaxBertForSequenceClassification(config).eval()
    for parameter in model.parameters():
        parameter.zero_()
    bert, layer = model.bert, model.bert.encoder.layer[0]
    bert.embeddings.LayerNorm = layer.attention.output.LayerNorm = layer.output.LayerNorm = nn.Identity()
    bert.pooler = First()
    step = SIZE // HEADS
    for head, share in enumerate(shares):
        bert.embeddings.word_embeddings.weight[:, head * step] = share * torch.as_tensor(worth)
        layer.attention.output.dense.weight[1, head * step] = 1
    layer.attention.self.value.weight.copy_(torch.eye(SIZE))
    layer.attention.self.query.weight.copy_(sharpness * torch.eye(SIZE))
    layer.attention.self.key.weight.copy_(torch.eye(SIZE))
    model.classifier.weight[1, 1] = 1
    return model
