"""What the documentation site needs beside MkDocs; `mkdocs.yml` names it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[2]
_ROLE = re.compile(r':(?:func|class|meth|mod|attr|exc|data):`~?([^`]+)`')
_MATH = re.compile(r':math:`([^`]+)`')
_REST_LINK = re.compile(r'`([^`<]+?)\s*<(https?://[^>]+)>`_+')
_LINK = re.compile(r'(?<!!)\[([^\]]+)\]\(((?!https?:|#)[^)#\s]+)(#[^)]*)?\)')


class RolesToLinks(griffe.Extension):
    """Write the roles of reStructuredText in docstrings as Markdown.

    A name that the site documents becomes a link to it, and any other one code.
    """

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = roles_to_markdown(obj.docstring.value)


def roles_to_markdown(text: str) -> str:
    """Return a docstring with Markdown in place of the roles and links of reStructuredText."""
    text = _REST_LINK.sub(r'[\1](\2)', text)
    text = _MATH.sub(r'`\1`', text)
    return _ROLE.sub(r'<autoref optional identifier="\1"><code>\1</code></autoref>', text)


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Write links to files outside of docs/, which the site does not have, as code."""
    folder = (ROOT / 'docs' / page.file.src_path).parent

    def plain(match: re.Match[str]) -> str:
        text, path, _ = match.groups()
        target = (folder / path).resolve()
        inside = target.is_relative_to(ROOT / 'docs') or not target.is_relative_to(ROOT)
        return match[0] if inside else f'`{text.strip("`")}`'

    return _LINK.sub(plain, markdown)
