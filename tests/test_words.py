"""The house's lines stay calm: names that say something, one idea a line, reasons beside code.

Each figure may only get better. `python -m tests.test_words` prints them.
"""

import ast
import io
import statistics
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("fedlearn", "clients", "server", "strategies")

# Names that say nothing of what they hold. A loop's `here` or a function's `made` may be
# clear to its writer; a reader has to look for where it came from.
VAGUE = {
    "asked",
    "each",
    "found",
    "given",
    "got",
    "held",
    "here",
    "how",
    "kept",
    "known",
    "least",
    "left",
    "made",
    "mine",
    "most",
    "one",
    "other",
    "others",
    "own",
    "done",
    "drawn",
    "rest",
    "seen",
    "sent",
    "some",
    "taken",
    "there",
    "told",
    "wanted",
    "what",
    "whole",
    "at",
}

# Shares of stores to vague names and of comment lines; counts per 1,000 lines.
MOST_VAGUE = 0.005
MOST_TUPLE_ASSIGNMENTS = 3.0
LEAST_COMMENTS = 0.05
# Syntax nodes on a line of a function's body: the median, and what 90 % stay below.
MEDIAN_NODES = 6.5
P90_NODES = 11.0


@dataclass
class Figures:
    """What is counted over the product's sources."""

    lines: int = 0
    comments: int = 0
    tuple_assignments: int = 0
    nodes_a_line: list[float] = field(default_factory=list)
    stores: Counter[str] = field(default_factory=Counter)
    classes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def vague(self) -> float:
        return sum(self.stores[name] for name in VAGUE) / self.stores.total()


def sources():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            linked = any(p.is_symlink() for p in path.parents)
            if not linked and not path.name.endswith("_pb2.py"):
                yield path


def nodes_a_line(function) -> float | None:
    """Return the syntax nodes per line of a function's body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if not body:
        return None
    nodes = [
        node
        for statement in body
        for node in ast.walk(statement)
        if not isinstance(node, ast.Load | ast.Store)
    ]
    return len(nodes) / (body[-1].end_lineno - body[0].lineno + 1)


def count(text: str, place: str, figures: Figures) -> None:
    figures.lines += len(text.splitlines())
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    figures.comments += sum(token.type == tokenize.COMMENT for token in tokens)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            figures.stores[node.id] += 1
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            figures.tuple_assignments += any(
                isinstance(target, ast.Tuple) for target in node.targets
            )
        elif isinstance(node, ast.ClassDef):
            figures.classes.setdefault(node.name, []).append(place)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            density = nodes_a_line(node)
            if density is not None:
                figures.nodes_a_line.append(density)


@pytest.fixture(scope="module")
def figures():
    return measured()


def measured() -> Figures:
    figures = Figures()
    for path in sources():
        count(path.read_text(), str(path.relative_to(ROOT)), figures)
    return figures


def p90(values: list[float]) -> float:
    return sorted(values)[int(0.9 * len(values))]


def test_names_say_what_they_hold(figures):
    vague = {name: figures.stores[name] for name in VAGUE if figures.stores[name]}
    assert figures.vague <= MOST_VAGUE, vague


def test_a_line_has_one_idea(figures):
    assert statistics.median(figures.nodes_a_line) <= MEDIAN_NODES
    assert p90(figures.nodes_a_line) <= P90_NODES
    assert 1000 * figures.tuple_assignments / figures.lines <= MOST_TUPLE_ASSIGNMENTS


def test_comments_say_why(figures):
    assert figures.comments / figures.lines >= LEAST_COMMENTS


def test_a_class_name_means_one_thing(figures):
    doubled = {name: files for name, files in figures.classes.items() if len(files) > 1}
    assert doubled == {}


def test_dense_lines_and_vague_names_are_seen():
    seen = Figures()
    text = "def f(x):\n    found, made = x, [g(h(y)) for y in x if y > 1]\n"
    count(text, "here", seen)
    assert seen.vague == pytest.approx(2 / 3)
    assert seen.tuple_assignments == 1
    assert seen.nodes_a_line[0] > P90_NODES


if __name__ == "__main__":
    total = measured()
    print(f"vague names        {100 * total.vague:.2f} % of stores")
    print(f"nodes a line       {statistics.median(total.nodes_a_line):.1f} median")
    print(f"                   {p90(total.nodes_a_line):.1f} for 90 %")
    per_1000 = 1000 * total.tuple_assignments / total.lines
    print(f"tuple assignments  {per_1000:.1f} per 1,000 lines")
    print(f"comment lines      {100 * total.comments / total.lines:.1f} %")
    print(
        "class names twice  ", sorted(n for n, f in total.classes.items() if len(f) > 1)
    )
