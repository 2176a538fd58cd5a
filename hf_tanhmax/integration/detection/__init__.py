"""What the forward method of an attention module does, read from its source."""
