"""Which stage runs when and where, what is changed between stages, and what is remembered."""
