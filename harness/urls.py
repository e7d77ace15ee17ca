"""URLs in command-line options. Without heavy imports: every pytest run loads it."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(://)[^@\s]*:[^@\s]*@")  # a password may contain a slash


def is_url(text: str) -> bool:
    """Whether an option's value is a URL and not a path."""
    return "://" in text


def without_passwords(text: str) -> str:
    """Replace the user name and the password of every URL by asterisks."""
    return _CREDENTIALS.sub(r"\1***@", text)
