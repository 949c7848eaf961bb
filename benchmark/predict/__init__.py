"""The command ``python -m benchmark.predict``."""
