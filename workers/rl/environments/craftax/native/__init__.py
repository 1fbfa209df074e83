"""Craftax in C++: the same games as the JAX package, to the bit, many times as fast."""
