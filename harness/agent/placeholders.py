"""Placeholders in the texts that start another VMM's program; see external_vmm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# a word in braces; "${word}" is a shell's, and JSON has no bare word
_PLACEHOLDER = re.compile(r"(?<!\$)\{[A-Za-z_][A-Za-z0-9_]*\}")


def contains_placeholder(
    placeholder: str, argv: Iterable[str], environment: Mapping[str, str], files: Mapping[str, str]
) -> bool:
    """Whether the command line, a variable's value or a file's text has that placeholder.

    The agent and the controller both decide by this function what a program gets.
    """
    texts = (*argv, *environment.values(), *files.values())
    return any(placeholder in str(text) for text in texts)  # the agent refuses other types


def find_placeholders(text: str) -> list[str]:
    """All words in braces that have the form of a placeholder, with their braces."""
    return _PLACEHOLDER.findall(text)
