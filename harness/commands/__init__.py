"""What `python -m harness` does, a module a group of subcommands.

Each has `add(commands)`: it adds its parsers, and each parser sets `run`, a function of the parsed
arguments that gives the exit status.
"""
