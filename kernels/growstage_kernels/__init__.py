"""Carries the compiled kernels that ``ops`` loads; holds no code."""
