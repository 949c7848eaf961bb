"""Methods that generate features of unseen classes and train a classifier on them."""
