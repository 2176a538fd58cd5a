"""The first minutes on a GPU: correctness case by case, then speed."""
