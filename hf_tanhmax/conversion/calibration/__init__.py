"""What is done to a converted model with some inputs, and how close it then is to the softmax model."""
