"""What a recipe does about the conversion of a softmax checkpoint: calibrate it before training, and check that it held."""
