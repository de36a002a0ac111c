"""Names of files as text that can be sent, logged and written into a report."""

from __future__ import annotations

import os


def path_text(path: str | bytes) -> str:
    r"""A name or path as text for people, reports and peers: other bytes become ``\xe9``.

    Names of files are bytes, and Python has those that are no text as half characters, which no
    network, log or JSON takes.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
