"""From images and texts to feature files, and the commands that make them."""
