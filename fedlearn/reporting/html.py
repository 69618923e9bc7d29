"""Pieces of a page: every text that goes in is escaped here, and a page asks nothing of any network."""

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
    return (
        value if isinstance(value, Html) else Html(html.escape(str(value), quote=True))
    )


def element(tag: str, *children: object, **attributes: str) -> Html:
    """Return an element; ``class_`` and the like lose their underscore, "_" inside a name becomes "-"."""
    names = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{safe(value)}"'
        for key, value in attributes.items()
    )
    return Html(f"<{tag}{names}>{''.join(safe(child) for child in children)}</{tag}>")


def table(
    heading: Sequence[object],
    rows: Iterable[Sequence[object]],
    text_columns: Sequence[int] = (0,),
) -> Html:
    """Return a table; columns other than ``text_columns`` are numbers and stand to the right."""

    def cells(tag: str, values: Sequence[object]) -> Html:
        made = (
            element(tag, v) if i in text_columns else element(tag, v, class_="n")
            for i, v in enumerate(values)
        )
        return element("tr", *made)

    head = [element("thead", cells("th", heading))] if heading else []
    body = element("tbody", *(cells("td", values) for values in rows))
    return element("div", element("table", *head, body), class_="scroll")


def section_of(title: str, *children: object, note: str = "") -> Html:
    """Return a section with a heading and, below it, one line that says what it shows."""
    about = [element("p", note, class_="note")] if note else []
    return element("section", element("h2", title), *about, *children)


def folded(title: object, *children: object, unfolded: bool = False) -> Html:
    """Return something that opens on a click, without any script."""
    inside = element("div", *children, class_="inside")
    return Html(
        f"<details{' open' if unfolded else ''}>{element('summary', title)}{inside}</details>"
    )


def picture(path: Path, caption: str) -> Html:
    """Return a PNG as part of the page itself (base64), with its caption."""
    data = base64.b64encode(path.read_bytes()).decode()
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


def write_document(path: Path, title: str, *body: object) -> Path:
    """Write a whole page, in one step, so that a reader never finds half of one; raises RecordError when it cannot."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="color-scheme" content="light dark">'
        f"<title>{safe(title)}</title><style>{CSS}</style>"
    )
    main = element("main", *body)
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{main}</body></html>\n'
    try:
        # Whoever the user's umask lets read it may: a page is for others too.
        files.replace(path, page.encode("utf-8", "replace"), 0o666)
    except OSError as error:
        raise RecordError(
            f"cannot write the page '{path}': {error.strerror}"
        ) from error
    return path
