"""The command `demo`: a page on this machine that explains what a checkpoint makes of a sentence or an image."""
