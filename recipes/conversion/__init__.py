"""Ways to turn a softmax model into a TanhMax one, measured beside each other: `python -m recipes.conversion run`, then `table`."""
