"""Data sets: the reader of real ones, simulated stand-ins, and what makes features of images (``features``)."""
