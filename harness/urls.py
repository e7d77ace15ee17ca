"""URLs among words of the command line. Light: every pytest run reads its options."""

from __future__ import annotations

import re

_SECRET = re.compile(r"(://)[^@\s]*:[^@\s]*@")  # a password may hold a slash


def is_url(word: str) -> bool:
    return "://" in word


def without_passwords(text: str) -> str:
    """With stars in the place of every URL's name and password."""
    return _SECRET.sub(r"\1***@", text)
