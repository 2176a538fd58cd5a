"""Methods that take the layers of a model apart: value zeroing, ALTI, ALTI-Logit and AttnLRP."""
