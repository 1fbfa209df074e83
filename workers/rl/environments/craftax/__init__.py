"""Craftax: what is known of each environment, and the JAX engine that plays it."""
