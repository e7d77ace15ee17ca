"""Text from files, made safe for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with a question mark for each control character."""
    return "".join(char if char.isprintable() else "?" for char in text)
