"""Placeholders in the texts that start another VMM's program; see external_vmm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def contains_placeholder(
    placeholder: str, argv: Iterable[str], environment: Mapping[str, str], files: Mapping[str, str]
) -> bool:
    """Whether the command line, a variable's value or a file's text has that placeholder.

    The agent and the controller both decide by this function what a program gets.
    """
    texts = (*argv, *environment.values(), *files.values())
    return any(placeholder in str(text) for text in texts)  # the agent refuses other types
