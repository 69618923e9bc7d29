"""The page of a run: complete, escaped, and asking nothing of any network."""

import json
import re
from html.parser import HTMLParser

import pytest

from fedlearn.errors import RecordError
from fedlearn.reporting.html import Html, element, safe
from fedlearn.reporting.page import write_page
from fedlearn.reporting.plots import draw


class Balance(HTMLParser):
    """Checks that every element that is opened is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.seen = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_self_contained(write):
    folder = write()
    draw(folder)
    text = write_page(folder).read_text(encoding="utf-8")
    balance = Balance()
    balance.feed(text)
    assert balance.open == []
    assert {"title", "h1", "figure", "table", "details", "pre"} <= balance.seen
    assert "script" not in balance.seen and "link" not in balance.seen
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]{0,30})', text)
    assert len(sources) == 5 and all(
        source.startswith("data:image/png;base64,") for source in sources
    )
    assert (
        "url(" not in text
        and "@import" not in text
        and "http:" not in text
        and "https:" not in text
    )
    assert "default-src 'none'" in text
    assert not (folder / "report.html.part").exists()


def test_the_figures_are_on_the_page(write):
    text = write_page(write()).read_text(encoding="utf-8")
    for found in (
        "80.00 %",
        "in round 4",
        "16.0 kB",
        "4× fewer than float32",
        "0123456789ab",
        "digits, 6 clients",
    ):
        assert found in text, found
    assert (
        "up q8, down f16" in text
        and "pool, 2 workers" in text
        and "All 4 rounds" in text
    )
    assert '<span class="chip good">met</span>' in text
    assert "No client failed" in text
    assert "python -m fedlearn.simulate config.toml --out ../tiny-again" in text
    assert "torch==2.13.0" in text
    assert "label_counts" not in text  # the picture shows them


def test_everything_from_files_is_escaped(write, lines):
    evil = "<script>alert('x')</script>"
    lines[1] |= {"failed": 1, "failures": {evil: evil}}
    folder = write(name=evil, lines=lines)
    summary = json.loads((folder / "summary.json").read_text())
    summary["expectations"] = [
        {"what": evil, "wanted": evil, "got": evil, "met": False}
    ]
    summary["model_sha256"] = '"><script>'
    (folder / "summary.json").write_text(json.dumps(summary))
    text = write_page(folder).read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 8
    assert 'title="&quot;&gt;&lt;script&gt;"' in text  # inside an attribute too
    assert '<span class="chip bad">not met</span>' in text


def test_failures_are_grouped_by_reason(write, lines):
    lines[1] |= {
        "failed": 3,
        "failures": {"4": "out of memory", "7": "out of memory", "9": "loss is nan"},
    }
    lines[3] |= {"attempts": 2}
    text = write_page(write(lines=lines)).read_text(encoding="utf-8")
    assert "3 failed in 2 of 4 rounds" in text
    assert "17 client updates, 3 failed" in text  # four rounds of five clients
    assert "<b>4, 7</b>: out of memory" in text
    assert "<b>9</b>: loss is nan" in text


def test_an_unfinished_run_says_so(write):
    text = write_page(write(finished=False)).read_text(encoding="utf-8")
    assert "unfinished: round 4 of 4" in text
    assert "Expectations" not in text and "<figure>" not in text


def test_what_could_not_be_read_is_said_on_the_page(write):
    folder = write()
    (folder / "manifest.json").unlink()
    assert "manifest.json is missing" in write_page(folder).read_text(encoding="utf-8")


def test_thousands_of_rounds_are_thinned_and_the_last_one_stays(write, lines):
    many = [lines[1] | {"round": position} for position in range(1, 4502)]
    text = write_page(write(lines=many)).read_text(encoding="utf-8")
    assert "One in 3 of 4,501 rounds" in text
    assert (
        '<td class="n">4501</td>' in text
        and '<td class="n">4</td>' in text
        and '<td class="n">3</td>' not in text
    )


def test_a_page_that_cannot_be_written_is_an_error(write, tmp_path):
    with pytest.raises(RecordError, match="cannot write the page"):
        write_page(write(), tmp_path / "nowhere" / "page.html")


def test_html_is_escaped_once():
    assert safe("a<b") == "a&lt;b"
    assert safe(Html("<i>")) == "<i>"
    assert (
        element("p", "1 < 2", element("b", "&"), class_="x")
        == '<p class="x">1 &lt; 2<b>&amp;</b></p>'
    )
