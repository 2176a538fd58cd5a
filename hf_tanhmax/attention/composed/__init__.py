"""TanhMax attention out of calls to stock softmax attention."""
