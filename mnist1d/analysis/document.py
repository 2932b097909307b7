"""Markdown: pieces to write it from, and one HTML page of it that has style and pictures inside."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from mnist1d.analysis.page import Table

VERDICT = re.compile(r"(?:\*\*)?[✓✗?–] (reproduced|not reproduced|inconclusive|no value)\b")
_IN_CELLS = re.compile(r"([\\*<|]|(?<=\])\()")  # what ends a cell or begins markup, or the address of a link
KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


# -- pieces -----------------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """The name GitHub gives a heading as a target of links."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def plain(text: str) -> str:
    """Text on one line whose signs mean nothing to Markdown."""
    return re.sub(r"([\\*<\[\]|])", r"\\\1", " ".join(text.split()))


def escaped(table: Table) -> Table:
    """A table whose cells may hold anything, for users name models and sweeps; intervals keep their brackets."""
    rows = tuple(tuple(_IN_CELLS.sub(r"\\\1", " ".join(cell.split())) for cell in row) for row in table.rows)
    return Table(table.title, table.columns, rows, table.note)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; nothing where there are no rows."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) if len(lines) > 2 else ""


def code(*commands: str) -> str:
    """A block of commands, one a line."""
    return "\n".join(("```bash", *commands, "```"))


# -- the page ---------------------------------------------------------------------------------------------


def document(markdown: str, folder: Path) -> str:
    """The page of `markdown`, whose pictures lie in `folder`; headings are link targets, as on GitHub.

    The first heading is the title. Raises OSError for a picture that cannot be read.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", _scrolled)
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(markdown)
    title = next(after.content for token, after in pairwise(tokens) if token.type == "heading_open")
    _name_headings(tokens)
    _mark_verdicts(tokens)
    _label_cells(tokens)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                child.attrSet("src", _inlined(folder, str(child.attrGet("src"))))
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    body = str(parser.renderer.render(tokens, parser.options, {}))
    for text in (" ± ", " %"):  # a line does not end within a number
        body = body.replace(text, text.replace(" ", "\N{NO-BREAK SPACE}"))
    return _PAGE.format(title=escape(title), style=style, body=body)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""


def _name_headings(tokens: Sequence[Token]) -> None:
    taken: Counter[str] = Counter()
    for token, content in pairwise(tokens):
        if token.type == "heading_open":
            name = slug(content.content)
            token.attrSet("id", f"{name}-{taken[name]}" if taken[name] else name)
            taken[name] += 1


def _mark_verdicts(tokens: Sequence[Token]) -> None:
    for token, content in pairwise(tokens):
        verdict = VERDICT.match(content.content) if token.type in ("td_open", "paragraph_open") else None
        if verdict:
            token.attrSet("class", f"verdict {verdict[1].replace(' ', '-')}")


def _label_cells(tokens: Sequence[Token]) -> None:
    """Every cell knows its column, for screens too narrow for columns; so does the table its first one."""
    names: list[str] = []
    column, table = 0, None
    for token, content in pairwise(tokens):
        if token.type == "table_open":
            names, table = [], token
        elif token.type == "th_open":
            names.append(content.content)
            if table and len(names) == 1:
                table.attrSet("class", f"by-{slug(names[0])}")
        elif token.type == "tr_open":
            column = 0
        elif token.type == "td_open":
            token.attrSet("data-column", names[column])
            column += 1


def _scrolled(_: object, tokens: Sequence[Token], index: int, *__: object) -> str:
    return f'<div class="scroll"><table class="{tokens[index].attrGet("class") or ""}">\n'


def _inlined(folder: Path, name: str) -> str:
    """A picture as the page's own text, from `folder` and from nowhere else."""
    path = folder / unquote(name)
    if folder.resolve() not in path.resolve().parents:
        raise PermissionError(f"{name} is no picture of the report: it lies outside of {folder}")
    return f"data:{KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
