"""Sentence embeddings and pair scores: sentence-transformers on converted folders, from the first encoding to a reload after training."""

import json

import pytest
import torch
import transformers
from datasets import Dataset
from families import NAIVE
from tiny_checkpoints import save_converted, save_softmax, words

from hf_tanhmax.models.family import TanhMaxFields

st = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses", reason="sentence-transformers is older than 6")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]
SENTENCES = ["a gripping , funny film", "not funny at all", "a film"]
# For each architecture: the classes of the model and of the pair classifier, and the processor.
ENCODERS = {
    "BERT": ("BertModel", "BertForSequenceClassification", words(types=True)),
    "RoBERTa": ("RobertaModel", "RobertaForSequenceClassification", words()),
    "DistilBERT": ("DistilBertModel", "DistilBertForSequenceClassification", words()),
    "ModernBERT": ("ModernBertModel", "ModernBertForSequenceClassification", words()),
}
every_encoder = pytest.mark.parametrize("name", ENCODERS)


def folders(name, tmp_path, *, pairs=False):
    head = ENCODERS[name][1 if pairs else 0]
    softmax = save_softmax(tmp_path / "softmax", head, name, ENCODERS[name][2], **({"num_labels": 1} if pairs else {}))
    return softmax, save_converted(softmax, tmp_path / "tanhmax")


def inside(model):
    """The Transformers model of a SentenceTransformer or CrossEncoder, which must be ours."""
    found = next(module for module in model.modules() if isinstance(module, transformers.PreTrainedModel))
    assert isinstance(found.config, TanhMaxFields)
    return found


def arguments(kind, folder):
    return kind(
        str(folder),
        max_steps=3,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )


@every_encoder
def test_sentences(name, tmp_path):
    softmax, folder = folders(name, tmp_path)
    model = st.SentenceTransformer(folder, device="cpu")
    found = model.encode(SENTENCES, convert_to_tensor=True, show_progress_bar=False)
    ours = inside(model)
    assert type(ours).__name__ == f"TanhMax{ENCODERS[name][0]}"

    expected = st.SentenceTransformer(softmax, device="cpu", model_kwargs={"attn_implementation": NAIVE})
    torch.testing.assert_close(found, expected.encode(SENTENCES, convert_to_tensor=True, show_progress_bar=False), atol=2e-5, rtol=2e-4)
    stock = st.SentenceTransformer(softmax, device="cpu").encode(SENTENCES, convert_to_tensor=True, show_progress_bar=False)
    assert (found - stock).abs().max() > 1e-3
    alone = torch.stack([model.encode(each, convert_to_tensor=True, show_progress_bar=False) for each in SENTENCES])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)  # padding is not seen

    pairs = Dataset.from_dict({"anchor": SENTENCES[:2], "positive": SENTENCES[1:]})
    trainer = st.SentenceTransformerTrainer(
        model,
        arguments(st.SentenceTransformerTrainingArguments, tmp_path / "run"),
        train_dataset=pairs,
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    trained = model.encode(SENTENCES, convert_to_tensor=True, show_progress_bar=False)
    assert (trained - found).abs().max() > 1e-3
    model.save_pretrained(str(tmp_path / "trained"))
    assert json.loads((tmp_path / "trained" / "config.json").read_text())["model_type"] == ours.config.model_type
    again = st.SentenceTransformer(str(tmp_path / "trained"), device="cpu")
    assert type(inside(again)) is type(ours)
    assert torch.equal(again.encode(SENTENCES, convert_to_tensor=True, show_progress_bar=False), trained)


@every_encoder
def test_pairs(name, tmp_path):
    softmax, folder = folders(name, tmp_path, pairs=True)
    model = st.CrossEncoder(folder, device="cpu")
    ours = inside(model)
    assert type(ours).__name__ == f"TanhMax{ENCODERS[name][1]}"
    pairs = [(SENTENCES[0], SENTENCES[1]), (SENTENCES[0], SENTENCES[2])]

    def scores(encoder):
        return torch.tensor(encoder.predict(pairs, show_progress_bar=False, activation_fn=torch.nn.Identity()))

    found = scores(model)
    expected = st.CrossEncoder(softmax, device="cpu", model_kwargs={"attn_implementation": NAIVE})
    torch.testing.assert_close(found, scores(expected), atol=2e-5, rtol=2e-4)
    assert (found - scores(st.CrossEncoder(softmax, device="cpu"))).abs().max() > 1e-5

    rows = Dataset.from_dict({"one": [SENTENCES[0]] * 4, "two": [SENTENCES[1], SENTENCES[2]] * 2, "label": [0.0, 1.0] * 2})
    trainer = st.cross_encoder.CrossEncoderTrainer(
        model=model,
        args=arguments(st.cross_encoder.CrossEncoderTrainingArguments, tmp_path / "run"),
        train_dataset=rows,
        loss=st.cross_encoder.losses.BinaryCrossEntropyLoss(model),
    )
    trainer.train()
    trained = scores(model)
    assert (trained - found).abs().max() > 1e-3
    model.save_pretrained(str(tmp_path / "trained"))
    again = st.CrossEncoder(str(tmp_path / "trained"), device="cpu")
    assert type(inside(again)) is type(ours)
    assert torch.equal(scores(again), trained)
