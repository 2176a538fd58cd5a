"""The first run on a GPU: correctness case by case, then speed."""
