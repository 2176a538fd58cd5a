"""TanhMax model classes: a config and a class for every head that an architecture has upstream."""
