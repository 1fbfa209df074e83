"""A TOML file becomes frozen values; what can be named in it; how its sections must fit."""
