"""Whether a model uses its negative attention weights: what is done to them, and what it costs."""
