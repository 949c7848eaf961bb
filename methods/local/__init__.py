"""Methods on local features: the regions of an image, and what each semantic attends to."""
