"""Subcommands of the command line by what they are about; each imports its room when it runs."""
