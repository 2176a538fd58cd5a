"""TanhMax inside models of Transformers: the functions that they call, caches, and modules that are patched."""
