"""What a data set's folder is, and what is wrong with it."""
