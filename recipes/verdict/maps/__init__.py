"""Maps from attention scores to weights that are compared: definitions, and how a model gets one."""
