"""What each position did to one output of a model."""
