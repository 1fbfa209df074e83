"""Experts specialised by domain: gradient masks and phases."""
