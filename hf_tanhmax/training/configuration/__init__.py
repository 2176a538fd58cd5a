"""Recipes: YAML files and command lines as one checked configuration."""
