"""Where a coordinator listens when its run goes on."""

from pathlib import Path
from typing import Any

import pytest

from fedlearn.records.writing import RunFolder
from fedlearn.runs.serving import ServeOptions, Serving
from fedlearn.server.listening import Address
from fedlearn.server.observe import Log


def ports(path: Path, text: str) -> tuple[int, int]:
    """Return the ports that a run listens at whose address.json has a text."""
    path.mkdir()
    (path / "address.json").write_text(text)
    folder = RunFolder(path)
    serving: Any = Serving(folder, Address(), Log(path / "log"), ServeOptions())
    try:
        place = serving._listening_at()
    finally:
        serving.close(False)
        folder.close()
    return place.port, place.enroll_port


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"port": 7001, "enrol": 7002}', (7001, 7002)),
        ('{"port": 7001}', (7001, 0)),
        ('{"port": "7001", "enrol": 70000}', (0, 0)),
        ("[7001, 7002]", (0, 0)),
        ("7001", (0, 0)),
        ('{"port": 70', (0, 0)),
        ("", (0, 0)),
    ],
)
def test_ports_are_those_of_before_where_the_file_has_them(text, expected, tmp_path):
    assert ports(tmp_path / "run", text) == expected
