"""The tables of docs/config.md, made from the schema.

``python -m fedlearn.config.documented docs/config.md`` writes them anew between the
page's two marks; without a page it prints them. A test holds the page equal to them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from fedlearn.config import schema
from fedlearn.config.schema import Section, Tables
from fedlearn.config.writing import toml_value
from fedlearn.errors import UserError

BEGIN = "<!-- made by python -m fedlearn.config.documented: do not edit -->"
END = "<!-- end of what is made -->"


def tables() -> str:
    """Return a heading, an introduction and a table of keys for each table of the config."""
    descriptions = key_descriptions()
    parts = []
    for title, section in _sections((), Tables):
        introduction = _linked(" ".join((section.__doc__ or "").split()))
        rows = _rows(section, descriptions[section.__name__])
        parts += [f"### `[{title}]`", "", introduction, ""]
        parts += ["| key | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(parts)


def _sections(
    path: tuple[str, ...], section: type[Section]
) -> Iterator[tuple[str, type[Section]]]:
    """Yield (title, table) for a table that has keys of its own, then for those in it."""
    # Inner tables follow their own section, as the page has them.
    inner = {}
    for name, field in section.model_fields.items():
        table = table_of(field.annotation)
        if table is not None:
            names = (name, "NAME") if get_origin(field.annotation) is dict else (name,)
            inner[(*path, *names)] = table
    # A table of tables alone has nothing to show.
    if len(inner) < len(section.model_fields):
        yield ".".join(path), section
    for inner_path, table in inner.items():
        yield from _sections(inner_path, table)


def table_of(annotation: Any) -> type[Section] | None:
    """Return the table that a key holds, one or many under names; None for a value."""
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return None


def _rows(section: type[Section], descriptions: dict[str, str]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        if table_of(field.annotation) is not None:
            continue
        default = "–" if field.default is None else f"`{toml_value(field.default)}`"
        yield f"| `{name}` | {default} | {_linked(descriptions[name])} |"


def key_descriptions() -> dict[str, dict[str, str]]:
    """Return the string below each key of the schema: class name → key → one line."""
    tree = ast.parse(Path(schema.__file__).read_text(encoding="utf-8"))
    return {
        node.name: dict(_described_keys(node))
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def _described_keys(section: ast.ClassDef) -> Iterator[tuple[str, str]]:
    # The string below a key is its description; pydantic does not keep it.
    for statement, below in zip(section.body, section.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign):
            continue
        if not isinstance(below, ast.Expr) or not isinstance(below.value, ast.Constant):
            continue
        if isinstance(statement.target, ast.Name):
            yield statement.target.id, " ".join(str(below.value.value).split())


def _linked(text: str) -> str:
    """Return text with each ``docs/page.md`` as a link from a page in docs/."""
    return re.sub(r"docs/([\w-]+\.md)(#[\w-]+)?", r"[\1](\1\2)", text)


def with_tables(page: str) -> str:
    """Return a page with the tables between its marks; raises UserError without marks."""
    before, begin, remainder = page.partition(BEGIN)
    _, end, after = remainder.partition(END)
    if not begin or not end:
        raise UserError(f"the page has no lines '{BEGIN}' and '{END}'")
    return f"{before}{BEGIN}\n\n{tables()}{END}{after}"


def main(arguments: list[str]) -> None:
    """Print the tables, or write them into the page that is named."""
    if not arguments:
        print(tables())
        return
    page = Path(arguments[0])
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
