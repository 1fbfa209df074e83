"""Hook of the docs site (mkdocs.yml): links to files that are no pages become their paths."""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, files: Any, **_: Any) -> str:
    """The page with links that lead out of the site turned into text."""
    folder = posixpath.dirname(page.file.src_uri)

    def kept(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        if files.get_file_from_path(target) is not None:
            return match[0]
        path = posixpath.normpath(posixpath.join("docs", folder, match[2]))
        return match[1] if path in match[1] else f"{match[1]} (`{path}`)"

    return LINK.sub(kept, markdown)
