"""Pieces of a page: every text that goes in is escaped here, and a page asks no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedlearn.errors import RecordError
from fedlearn.reporting.page_style import CSS
from fedlearn.system import files

# The browser itself refuses everything that is not in the file: no script, no request.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that is HTML already; any other text is escaped when it becomes part of a page."""


def safe(value: object) -> Html:
    """Return a value as HTML: escaped, unless it is `Html` already."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(str(value), quote=True))


def element(tag: str, *children: object, **attributes: str) -> Html:
    """Return an element.

    ``class_`` and the like lose their underscore, "_" inside a name becomes "-".
    """
    parts = [tag]
    for key, value in attributes.items():
        # Python's words, such as class, cannot be names of arguments.
        name = key.rstrip("_").replace("_", "-")
        parts.append(f'{name}="{safe(value)}"')
    inside = "".join(safe(child) for child in children)
    return Html(f"<{' '.join(parts)}>{inside}</{tag}>")


def table(
    heading: Sequence[object],
    rows: Iterable[Sequence[object]],
    text_columns: Sequence[int] = (0,),
) -> Html:
    """Return a table; columns other than ``text_columns`` are numbers and stand to the right."""
    parts: list[Html] = []
    if heading:
        parts.append(element("thead", _table_row("th", heading, text_columns)))
    lines = [_table_row("td", values, text_columns) for values in rows]
    parts.append(element("tbody", *lines))
    # On a narrow screen the table scrolls, not the page.
    return element("div", element("table", *parts), class_="scroll")


def _table_row(tag: str, values: Sequence[object], text_columns: Sequence[int]) -> Html:
    cells: list[Html] = []
    for position, value in enumerate(values):
        if position in text_columns:
            cells.append(element(tag, value))
        # n for number: the style sheet sets its digits to the right.
        else:
            cells.append(element(tag, value, class_="n"))
    return element("tr", *cells)


def section_of(title: str, *children: object, note: str = "") -> Html:
    """Return a section with a heading and, below it, one line that says what it shows."""
    parts: list[object] = [element("h2", title)]
    if note:
        parts.append(element("p", note, class_="note"))
    return element("section", *parts, *children)


def folded(title: object, *children: object, unfolded: bool = False) -> Html:
    """Return something that opens on a click, without any script."""
    # An attribute without a value, which `element` does not have.
    state = " open" if unfolded else ""
    summary = element("summary", title)
    inside = element("div", *children, class_="inside")
    return Html(f"<details{state}>{summary}{inside}</details>")


def picture(path: Path, caption: str) -> Html:
    """Return a PNG as part of the page itself (base64), with its caption. Raises OSError."""
    data = base64.b64encode(path.read_bytes()).decode()
    # <img> has no end tag, so it is no `element`.
    image = f'<img alt="{safe(caption)}" src="data:image/png;base64,{data}">'
    return element("figure", Html(image), element("figcaption", caption))


def tile(name: str, value: str, below: object = "") -> Html:
    """Return a key figure: its name, its value large, one line below."""
    parts = [
        element("dt", name),
        element("dd", value),
        element("dd", below, class_="below"),
    ]
    return element("div", *parts, class_="tile")


def document(title: str, *body: object) -> str:
    """Return a page as text."""
    head = (
        '<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{safe(title)}</title><style>{CSS}</style>"
    )
    main = element("main", *body)
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head>{head}</head><body>{main}</body></html>\n'
    )


def write_document(path: Path, title: str, *body: object) -> Path:
    """Write a page in one step, so that a reader never finds half of one, and return its path.

    Raises RecordError when it cannot be written.
    """
    # What UTF-8 cannot hold, half of a pair of surrogates, becomes a question mark.
    data = document(title, *body).encode("utf-8", "replace")
    try:
        # A page is for others too, unless it lies in a run's own folder.
        files.replace(path, data, files.page_mode(path.parent))
    except OSError as error:
        raise RecordError(
            f"cannot write the page '{path}': {error.strerror}"
        ) from error
    return path
