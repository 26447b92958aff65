"""The page at ``/``, to try the model and to watch it, and the reference at ``/docs``.

Each is a single document, without other files or hosts. The page at ``/`` has no data of the model, so it requires no
API key. The browser runs only scripts and styles whose hashes are in the header.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

_HEADERS = {
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "vary": "accept",
    "x-content-type-options": "nosniff",
}
_LINKED = re.compile(r'<link rel="stylesheet" href="(\w+\.css)">|<script src="(\w+\.js)"></script>')


@dataclass(frozen=True)
class Page:
    """A document and the headers to send with it."""

    body: bytes
    headers: dict[str, str]


def page() -> Page:
    """Return the page at ``/``. It is the same for every model, and requests the data from its server."""
    return whole(_read("index.html"))


def whole(html: str) -> Page:
    """Return ``html`` with the linked style sheets and scripts, files of this directory, inlined."""
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def inlined(link: re.Match[str]) -> str:
        tag, content = ("style", _read(link[1])) if link[1] else ("script", _read(link[2]))
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[tag].append(f"'sha256-{digest}'")
        return f"<{tag}>{content}</{tag}>"

    body = _LINKED.sub(inlined, html).encode()
    allowed = [f"{tag}-src {' '.join(found)}" for tag, found in hashes.items() if found]
    policy = [
        "default-src 'none'",
        *allowed,
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return Page(body, {**_HEADERS, "content-security-policy": "; ".join(policy)})


def _read(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")
