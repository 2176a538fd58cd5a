"""TanhMax model classes: a config and a class for every head that BERT, ViT and LLaMA have upstream."""
