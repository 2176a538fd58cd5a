"""From a softmax checkpoint to a published TanhMax model, in cells for an editor or Jupytext (`# %%`), or as a script.

python recipes/examples/walkthrough.py [MODEL FOLDER OWNER/NAME]      MODEL: a BERT, a name on the Hub or a folder; FOLDER: a new one
"""

# %% Real sentences, and where things go. Without a repository on the Hub nothing is published.
import subprocess
import sys
from importlib.resources import files

import torch
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import hf_tanhmax
from hf_tanhmax.hub import push
from hf_tanhmax.interpret import ablate_negatives, explain, save_page

MODEL, FOLDER, REPO = sys.argv[1:] if len(sys.argv) == 4 else ("sentence-transformers/all-MiniLM-L6-v2", "tanhmax-minilm", None)
folder = files("hf_tanhmax").joinpath("training", "data", "film_reviews")
reviews = load_dataset("csv", data_files={split: str(folder / f"{split}.csv") for split in ("train", "test")})
reviews = reviews.class_encode_column("label")
train, test = reviews["train"], reviews["test"]

# %% Convert. Plain TanhMax would ruin trained weights: with a few unlabelled texts, biases are aligned and output projections refitted.
tokenizer = AutoTokenizer.from_pretrained(MODEL)
classes = train.features["label"].names
ids = {name: number for number, name in enumerate(classes)}
texts = train["text"][:128]
model = hf_tanhmax.convert(
    MODEL, AutoModelForSequenceClassification, calibrate=texts, refit=True, id2label=dict(enumerate(classes)), label2id=ids
)

# %% Fine-tune with the Trainer, as any other model.
encoded = train.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=48), batched=True)
arguments = TrainingArguments(FOLDER, max_steps=75, learning_rate=1e-4, save_strategy="no", report_to="none")
trainer = Trainer(model, arguments, train_dataset=encoded, processing_class=tokenizer)
trainer.train()
trainer.save_model(FOLDER)

# %% Are the negative weights used? Masked and made positive, on sentences that the model has not seen.
texts, labels = test["text"][:100], test["label"][:100]
ablation = ablate_negatives(model, texts, tokenizer, labels=labels, interventions=("negatives_masked", "made_positive"))
print(f"accuracy {ablation.as_is:.3f}; {100 * ablation.negative_mass:.0f} % of the weight is negative. {ablation.verdict}")

# %% Explain a sentence, in logits for and against the class that the model predicts.
explanation = explain(model, test["text"][0], tokenizer=tokenizer)
print(f"{explanation.target_name}, with probability {explanation.probability:.2f}")
print(*(f"{word} {score:+.3f}" for word, score in zip(explanation.word_texts, explanation.by_word("contributions").tolist(), strict=True)))
print(f"every layer and head: open {save_page(explanation, f'{FOLDER}/explain.html')}")

# %% Publish: weights, config, tokenizer, a card, and one file of code that computes TanhMax where this package is not installed.
if REPO:
    print(f"published: {push(FOLDER, REPO)}")

# %% Load it as a stranger would: in a process that never imports hf_tanhmax, by the code that was published.
STRANGER = """
import sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
with torch.no_grad():
    print(*model(**AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)(sys.argv[2], return_tensors="pt")).logits[0].tolist())
assert "hf_tanhmax" not in sys.modules
"""
command = [sys.executable, "-c", STRANGER, REPO or FOLDER, test["text"][0]]
found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
with torch.no_grad():
    logits = model.eval()(**tokenizer(test["text"][0], return_tensors="pt").to(model.device)).logits[0].cpu()
difference = (torch.tensor([float(value) for value in found.splitlines()[-1].split()]) - logits).abs().max()
print(f"{REPO or FOLDER}, loaded without hf_tanhmax, gives the same logits to {difference:.0e}")
