"""Fused TanhMax attention in Triton. Importing this package imports no Triton: `support` says whether there is one, `launch` needs it."""
