"""Private and changing names of Transformers and other packages that this package uses, and what releases change about them."""
