"""The page of the playground: one document, which needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from deltatune import report

_HERE = Path(__file__).parent


@cache
def page() -> tuple[str, dict[str, str]]:
    """The page, and the headers that let nothing run or be fetched but what is in it."""
    style = _read(Path(report.__file__).with_name("page.css")) + _read(_HERE / "playground.css")
    script = _read(_HERE / "answers.js") + _read(_HERE / "playground.js")
    html = _read(_HERE / "playground.html").replace("STYLE", style, 1).replace("SCRIPT", script, 1)
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return html, {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
