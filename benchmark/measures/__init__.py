"""Measures of a fitted method: pure functions of tensors."""
