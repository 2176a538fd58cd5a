"""Rows, tokenizers and image processors of a run."""
