"""The documentation reads easily: short sentences and paragraphs, an index, no dead link.

Only running text is measured. Code blocks, tables, headings, comments and the targets of
links are left out; a list's items are sentences of their own. ``python -m tests.test_prose``
prints the figures of each page.
"""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BESIDE = [ROOT / "CONTRIBUTING.md", ROOT / "deploy" / "README.md"]
LABELS = [str(page.relative_to(ROOT)) for page in [*DOCS, *BESIDE]]

MEAN_WORDS = 17
LONG_WORDS = 35
LONG_SHARE = 0.03
PARAGRAPH_WORDS = 80

# A full stop after one of these ends no sentence.
ABBREVIATIONS = {"al.", "approx.", "cf.", "e.g.", "eq.", "fig.", "i.e.", "resp.", "vs."}
STOP = re.compile(r"[.!?…][\"')\]*_]*$")
ITEM = re.compile(r"^(?:[-*+]|\d{1,2}[.)])\s+")


class Figures(NamedTuple):
    """What one page, or all of them, came to."""

    sentences: int
    mean_words: float
    long_share: float


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs and list items of Markdown ``text`` as one plain line each."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    blocks: list[str] = []
    lines: list[str] = []
    fence = ""
    for line in [*text.splitlines(), ""]:
        stripped = line.strip()
        if fence or stripped.startswith(("```", "~~~")):
            fence = "" if fence and stripped == fence else fence or stripped[:3]
            ends, keep = True, ""
        elif (
            not stripped
            or stripped.startswith(("|", "#", "!["))
            or re.fullmatch(r"[-*_]{3,}", stripped)
        ):
            ends, keep = True, ""
        else:
            ends, keep = bool(ITEM.match(stripped)), ITEM.sub("", stripped, count=1)
        if ends and lines:
            blocks.append(plain(" ".join(lines)))
            lines = []
        if keep:
            lines.append(keep.removeprefix("> "))
    return [block for block in blocks if block]


def plain(text: str) -> str:
    """Return ``text`` without markup; a formula is one word, inline code keeps its number."""
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(
        r"`+([^`]*)`+",
        lambda found: " ".join("Code" for _ in found[1].split()) or "Code",
        text,
    )
    text = re.sub(r"\$[^$]+\$", "Formula", text)
    return re.sub(r"\*\*|__", "", text).strip()


def sentences(paragraph: str) -> list[str]:
    """Split one plain paragraph; a paragraph without a full stop is one sentence."""
    out: list[str] = []
    words: list[str] = []
    for word in paragraph.split():
        words.append(word)
        bare = word.lstrip("(\"'[").lower()
        initial = re.fullmatch(r"\(?[A-Z]\.", word)
        if (
            STOP.search(word)
            and bare not in ABBREVIATIONS
            and not initial
            and word != "…"
        ):
            out.append(" ".join(words))
            words = []
    if words:
        out.append(" ".join(words))
    return [sentence for sentence in out if words_of(sentence)]


def words_of(text: str) -> int:
    """Count what has a letter or a digit: signs that stand alone are no words."""
    return sum(1 for word in text.split() if re.search(r"\w", word))


def figures(split: list[str]) -> Figures:
    """Return count, mean length and share of long ones of ``split`` sentences."""
    counts = [words_of(sentence) for sentence in split]
    total = len(counts) or 1
    return Figures(
        len(counts),
        sum(counts) / total,
        sum(1 for n in counts if n > LONG_WORDS) / total,
    )


def page_sentences(page: Path) -> list[str]:
    """Return the sentences of one page."""
    return [
        s
        for paragraph in paragraphs(page.read_text(encoding="utf-8"))
        for s in sentences(paragraph)
    ]


def verdict(name: str, split: list[str]) -> str:
    """Return why ``split`` reads too hard, with its longest sentences, or an empty text."""
    result = figures(split)
    if result.mean_words <= MEAN_WORDS and result.long_share <= LONG_SHARE:
        return ""
    longest = sorted(split, key=words_of, reverse=True)[:5]
    lines = "\n".join(
        f"  {words_of(sentence)} words: {sentence}" for sentence in longest
    )
    return (
        f"{name}: a sentence has {result.mean_words:.1f} words on average "
        f"(at most {MEAN_WORDS}), and {result.long_share:.1%} have more than {LONG_WORDS} "
        f"(at most {LONG_SHARE:.0%}). Split the longest:\n{lines}"
    )


@pytest.mark.parametrize("page", [*DOCS, *BESIDE], ids=LABELS)
def test_a_page_has_short_sentences(page: Path) -> None:
    found = verdict(str(page.relative_to(ROOT)), page_sentences(page))
    assert not found, found


def test_all_pages_together_have_short_sentences() -> None:
    found = verdict(
        "README.md and docs/*.md", [s for page in DOCS for s in page_sentences(page)]
    )
    assert not found, found


@pytest.mark.parametrize("page", [*DOCS, *BESIDE], ids=LABELS)
def test_a_page_has_short_paragraphs(page: Path) -> None:
    for paragraph in paragraphs(page.read_text(encoding="utf-8")):
        count = words_of(paragraph)
        assert count <= PARAGRAPH_WORDS, (
            f"{page.relative_to(ROOT)}: a paragraph of {count} words "
            f"(at most {PARAGRAPH_WORDS}): {paragraph}"
        )


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [
        p.name for p in DOCS[1:] if p.name != "index.md" and f"({p.name})" not in index
    ]
    assert not missing, f"docs/index.md does not list {', '.join(missing)}"


@pytest.mark.parametrize("page", [*DOCS, *BESIDE], ids=LABELS)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), (
            f"{page.relative_to(ROOT)} links to {target}, and there is no such file"
        )
        if anchor:
            assert anchor in anchors(file), (
                f"{page.relative_to(ROOT)} links to {target}, and no heading has that name"
            )


def anchors(page: Path) -> set[str]:
    """Return the names that a page's headings are linked by."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two three.", ["One.", "Two three."]),
        (
            "By McMahan et al. (2017), e.g. in 1.5 s. Yes!",
            ["By McMahan et al. (2017), e.g. in 1.5 s.", "Yes!"],
        ),
        ("Run `a.b c. d`. [See here](x.md).", ["Run Code Code Code.", "See here."]),
        (
            "- one\n- two\n  goes on\n\n| a table. | |\n\n```\ncode. here\n```\nEnd",
            ["one", "two goes on", "End"],
        ),
        ("# No heading.\n\nW = $x. y$ (here.) Then", ["W = Formula (here.)", "Then"]),
    ],
)
def test_text_is_split_into_sentences(text: str, expected: list[str]) -> None:
    assert [
        s for paragraph in paragraphs(text) for s in sentences(paragraph)
    ] == expected


def test_a_long_sentence_is_named() -> None:
    assert "page.md" in verdict(
        "page.md", ["word " * 40]
    ) and "40 words: word" in verdict("page.md", ["word " * 40])


def row(name: str, split: list[str]) -> str:
    """Return a line of the table that the module prints."""
    result = figures(split)
    return f"{name:24} {result.sentences:5} {result.mean_words:6.1f} {result.long_share:7.1%}"


if __name__ == "__main__":
    for file in [*DOCS, *BESIDE]:
        print(row(str(file.relative_to(ROOT)), page_sentences(file)))
    together = [s for file in DOCS for s in page_sentences(file)]
    print(row("README.md, docs/*.md", together))
