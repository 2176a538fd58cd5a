"""Training recipes: YAML files, and the programs that run them."""
