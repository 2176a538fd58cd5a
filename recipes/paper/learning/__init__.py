"""The paper's classifier, its training and what is computed of a trained one."""
