"""What is explained: texts, pictures and encoded batches, ready for a model."""
