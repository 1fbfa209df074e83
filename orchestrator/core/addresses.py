"""Addresses of stores as people may see them: without what is secret in them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "***"
"""Stands for what is secret."""
_SECRET = re.compile(r"(?<=[?&])(password|passwd|pwd|token|access_token|secret)=[^&#]*", re.I)


def without_password(uri: str) -> str:
    """``uri`` with ``***`` for its password, and for passwords and tokens in its query."""
    uri = _SECRET.sub(rf"\1={HIDDEN}", uri)
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{HIDDEN}@{place}"))
