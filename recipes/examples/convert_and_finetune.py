"""Convert a softmax BERT and fine-tune it with the plain Trainer, while its attention goes from softmax to TanhMax.

python recipes/examples/convert_and_finetune.py [MODEL] [OUTPUT]      MODEL: a name on the Hub or a folder
"""

import sys

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import hf_tanhmax

TEXTS = ["a gripping, funny film", "not funny at all", "a joy to watch", "dull from start to end"]
LABELS = [1, 0, 1, 0]


def main(source: str = "google-bert/bert-base-uncased", output: str = "tanhmax-bert") -> None:
    """Train for 20 steps on four reviews; with data of yours, nothing else changes."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    # At polarity 0 the converted model computes exactly what the softmax model computed; its classifier is new.
    model = hf_tanhmax.convert(source, AutoModelForSequenceClassification, polarity=0.0, num_labels=2)
    trainer = Trainer(
        model,
        TrainingArguments(output, max_steps=20, learning_rate=5e-5, logging_steps=5, save_strategy="no", report_to="none"),
        train_dataset=Dataset.from_dict({**tokenizer(TEXTS), "label": LABELS}),
        processing_class=tokenizer,
        callbacks=[hf_tanhmax.PolarityCallback(start=0.0, end=1.0, share=0.5)],  # TanhMax from step 10 on
    )
    trainer.train()
    for record in trainer.state.log_history:
        if "loss" in record:
            print(f"step {record['step']:2}: loss {record['loss']:.3f} at polarity {record['polarity']:.1f}")

    trainer.save_model(output)
    reloaded = AutoModelForSequenceClassification.from_pretrained(output)  # config.json says that it is TanhMax
    print(f"{output} is a {type(reloaded).__name__} of polarity {reloaded.config.tanhmax_polarity}")


if __name__ == "__main__":
    main(*sys.argv[1:])
