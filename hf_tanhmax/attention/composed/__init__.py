"""TanhMax attention computed with torch's softmax attention kernels."""
