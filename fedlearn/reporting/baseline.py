"""What always answering the most frequent class reaches, beside what a run reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlearn.records.reading import RunRecord, finite, section
from fedlearn.reporting.units import percent_text


def baseline_of(run: RunRecord) -> float | None:
    """Return a run's baseline, a share of 1; None where it recorded none."""
    return finite(_recorded(run), "accuracy")


def baseline_text(summary: Mapping[str, Any]) -> str:
    """Return the baseline of a summary, and whether its model beats it; "": it has none."""
    recorded = section(summary, "baseline")
    share = finite(recorded, "accuracy")
    if share is None:
        return ""
    text = f"{percent_text(share)} by always answering class {recorded.get('label')}"
    return f"{text}, {'beaten' if _beats(summary, recorded) else 'NOT BEATEN'}"


def baseline_warning(run: RunRecord) -> str:
    """Return a sentence about a final model that is no better than its baseline; "": it is."""
    recorded = section(run.summary, "baseline")
    share = finite(recorded, "accuracy")
    if share is None or _beats(run.summary, recorded):
        return ""
    accuracy = percent_text(finite(run.summary, "accuracy"))
    return (
        f"Always answering class {recorded.get('label')} gives {percent_text(share)} on the "
        f"held-out samples. The model's {accuracy} is not better than that: it may have "
        "learned nothing but how frequent the classes are."
    )


def _beats(summary: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    accuracy = finite(summary, "accuracy")
    share = finite(recorded, "accuracy")
    if accuracy is None or share is None:
        return False
    # Within one standard error it is luck.
    return accuracy > share + (finite(recorded, "noise") or 0.0)


def _recorded(run: RunRecord) -> Mapping[str, Any]:
    """Return the baseline of a summary, or of the manifest, which an unfinished run has too."""
    recorded = section(run.summary, "baseline")
    return recorded or section(section(run.manifest, "data"), "baseline")
