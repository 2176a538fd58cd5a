"""Attribution of one output of a model to the positions of its input, by signed attention and by gradients."""
