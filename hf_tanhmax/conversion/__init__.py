"""From softmax to TanhMax: the same weights under another class, aligned so that they still work there."""
