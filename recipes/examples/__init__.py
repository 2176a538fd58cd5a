"""Short scripts to begin with: convert and fine-tune, patch a live model, explain an output, serve."""
