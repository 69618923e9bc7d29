"""Paths of another system that lies in a folder of this one, such as an image."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

# As Linux counts them (path_resolution(7)).
_MOST_LINKS = 40


def inside(root: Path, path: Path, last: bool = True) -> Path:
    """Return where a system's absolute path lies, below the folder that holds the system.

    Links are followed as that system would follow them: an absolute one begins at ``root``, and
    ``..`` leads no higher than it. So the result is inside of ``root``, whatever the links say.
    last: whether to follow a link at the path's end too; a file that is replaced takes the
    link's place. What is not there yet has no links. Raises OSError for links in a circle.
    """
    waiting = list(reversed(path.parts[1:]))
    parts: list[str] = []
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            del parts[-1:]
            continue
        place = root.joinpath(*parts, part)
        is_followed = last or waiting
        if not (is_followed and place.is_symlink()):
            parts.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(place))
        target = PurePosixPath(os.readlink(place))
        steps = target.parts
        # Absolute: from the other system's own root.
        if target.is_absolute():
            parts.clear()
            steps = steps[1:]
        waiting.extend(reversed(steps))
    return root.joinpath(*parts)
