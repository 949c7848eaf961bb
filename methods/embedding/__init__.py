"""Methods that map features and attributes into a common space and score their compatibility."""
