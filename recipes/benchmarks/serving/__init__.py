"""TanhMax models served by vLLM: whether they answer as Transformers does, how fast, and what a load and a killed worker leave of it."""
