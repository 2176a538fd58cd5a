"""Explanations as figures, as an HTML page, and as arguments of other viewers."""
