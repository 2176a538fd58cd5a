"""TanhMax inside models of Transformers: attention functions with their masks, caches, detection of attention modules, patching."""
