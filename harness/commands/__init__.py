"""The subcommands of `python -m harness`, one module for each group.

Each module has `add(commands)`, which adds its parsers. Each parser sets `run`: a function of the
parsed arguments that returns the exit status.
"""
