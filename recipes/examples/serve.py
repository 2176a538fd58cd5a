"""Write texts with a TanhMax decoder: one after the other with `generate`, and many at once with continuous batching.

python recipes/examples/serve.py [MODEL]      MODEL: a softmax LLaMA, by its name on the Hub or a folder
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

import hf_tanhmax

PROMPTS = ["The capital of France is", "A film can be", "Once upon a time"]


def main(source: str = "HuggingFaceTB/SmolLM2-135M") -> None:
    """Both ways write the same texts."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    # A checkpoint that was trained with TanhMax is loaded as usual: AutoModelForCausalLM.from_pretrained(source).
    model = hf_tanhmax.convert(source, AutoModelForCausalLM, polarity=0.0).eval()
    greedy = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=model.config.eos_token_id)

    one_by_one = []
    for prompt in PROMPTS:
        batch = tokenizer(prompt, return_tensors="pt")
        written = model.generate(**batch, generation_config=greedy)
        one_by_one.append(tokenizer.decode(written[0, batch["input_ids"].shape[1] :]))

    # Continuous batching keeps the keys and values of all requests in the blocks of one cache, which TanhMax reads where they lie.
    size = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=256)  # None fills the memory that there is
    requests = model.generate_batch(tokenizer(PROMPTS)["input_ids"], generation_config=greedy, continuous_batching_config=size)
    together = [tokenizer.decode(requests[name].generated_tokens) for name in sorted(requests)]

    for prompt, text in zip(PROMPTS, together, strict=True):
        print(f"{prompt!r} goes on {text!r}")
    print("one by one the texts are " + ("the same" if sorted(one_by_one) == sorted(together) else f"others: {one_by_one}"))


if __name__ == "__main__":
    main(*sys.argv[1:])
