"""How many bytes a journal may have on its disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from fedlearn.errors import RecordError

# Of the disk's free bytes: the run's checkpoints and other programs need room as well.
FREE_SHARE = 0.9

# Bytes of a megabyte, as disks count them.
MEGABYTE = 10**6


def quota_bytes(folder: Path, megabytes: int | None) -> int:
    """Return the bytes that a journal may have in all.

    folder: of the journal, or where it will be made. megabytes: as the user says; None: what
    it has and FREE_SHARE of what is free. Raises RecordError.
    """
    if megabytes is not None:
        return megabytes * MEGABYTE
    try:
        present_bytes = sum(path.stat().st_size for path in folder.glob("*.log"))
        # The nearest folder that is there is on the same disk.
        place = next(path for path in (folder, *folder.parents) if path.exists())
        free_bytes = shutil.disk_usage(place).free
    except OSError as error:
        reason = error.strerror or error
        raise RecordError(f"cannot read {folder}: {reason}") from error
    return present_bytes + round(FREE_SHARE * free_bytes)


def check_quota(present_bytes: int, group_bytes: int, quota: int | None) -> None:
    """Raise RecordError for records that a journal has no room for; quota: in bytes."""
    if quota is None or present_bytes + group_bytes <= quota:
        return
    raise RecordError(
        f"it has {present_bytes / MEGABYTE:.1f} MB, and {group_bytes / MEGABYTE:.1f} MB "
        f"more are beyond its {quota / MEGABYTE:.1f} MB; "
        "make room on its disk, or give a larger --journal-megabytes"
    )
