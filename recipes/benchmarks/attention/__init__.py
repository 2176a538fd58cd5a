"""Attention alone: accuracy and speed of every implementation."""
