"""What this package leans on in Transformers and its companions beyond their public names, and what moves from release to release."""
