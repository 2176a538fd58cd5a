"""Data of the tasks: generated rows with known Bayes answers, texts and images; all as batches with their labels."""
