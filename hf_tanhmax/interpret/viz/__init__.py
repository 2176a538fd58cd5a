"""Explanations as pictures, as a page, and for other viewers."""
