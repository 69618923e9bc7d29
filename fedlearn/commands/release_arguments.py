"""Arguments that the commands about packages and releases share."""

from __future__ import annotations

import re

from fedlearn.errors import UserError


def expiry(text: str | None) -> str | None:
    """Return a time as a manifest has it; None for None. Raises UserError for what is none."""
    from fedlearn.package.manifest import moment, now

    if text is None:
        return None
    expires = text
    # A day begins at midnight.
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        expires = f"{text}T00:00:00Z"
    try:
        is_past = moment(expires) <= now()
    except ValueError:
        raise UserError(
            f"--expires {text}: write YYYY-MM-DD, or YYYY-MM-DDThh:mm:ssZ"
        ) from None
    if is_past:
        raise UserError(
            f"--expires {text} is past, so no device would take it; name a later time (UTC)"
        )
    return expires
