"""Of the site: links from a page to files of the repository outside of docs/ lead to the repository.

A link to a file that is not there stays as it is, and `mkdocs build --strict` refuses it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    docs = Path(config.docs_dir)
    folder = (docs / page.file.src_uri).parent

    def into_repository(found: re.Match[str]) -> str:
        target = (folder / found[1]).resolve()
        if not target.exists() or target.is_relative_to(docs):
            return found[0]
        kind = "tree" if target.is_dir() else "blob"
        return f"]({config.repo_url}/{kind}/main/{target.relative_to(docs.parent).as_posix()}{found[2] or ''})"

    return re.sub(r"\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)", into_repository, markdown)
