"""Inputs of explanations: texts, images and encoded batches, ready for a model."""
