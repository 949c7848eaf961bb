"""Pictures beside the boards: SVGs that are the same on every machine."""
