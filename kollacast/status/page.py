"""The page as it is sent: its three files in one, and the policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources


def _text(name: str) -> str:
    return resources.files(__package__).joinpath("assets").joinpath(name).read_text("utf-8")


def _source(text: str) -> str:
    """What a policy calls an element with this text (CSP level 3, section 8.2)."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def page() -> tuple[bytes, bytes]:
    """The page, and its Content-Security-Policy. Raises OSError where a file is not there."""
    style, script = _text("status.css"), _text("status.js")
    html = _text("status.html").replace("/* style */", style).replace("/* script */", script)
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)};"
        " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return html.encode(), policy.encode()
