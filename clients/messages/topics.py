"""Names on a broker: where messages go, and where it is told that somebody has them."""

from __future__ import annotations

import re

from fedlearn.errors import UserError

# MQTT 5, section 4.7.3: a topic has 65,535 bytes; nobody needs that many.
MOST_BYTES = 512

# Of an outbox's id, `fedlearn.clients.messages.outbox`.
_ID = re.compile(r"[0-9a-f]{16}")


def acknowledgements(topic: str, outbox: str) -> str:
    """Return where a subscriber tells an outbox what it has: below the messages' topic."""
    return f"{topic}/ack/{outbox}"


def is_acknowledgement(topic: str) -> bool:
    """Tell whether a topic is one of `acknowledgements`, which a wildcard matches too."""
    _, separator, outbox = topic.rpartition("/ack/")
    return bool(separator) and _ID.fullmatch(outbox) is not None


def check_topic(topic: str, option: str) -> str:
    """Return a topic that messages may go to; raises UserError for any other."""
    if "+" in topic or "#" in topic:
        raise UserError(f"{option} mqtt:{topic}: '+' and '#' are for subscribers")
    return check_filter(topic, option)


def check_filter(topic: str, option: str) -> str:
    """Return a topic, with wildcards or without, to subscribe to; raises UserError."""
    levels = topic.split("/")
    is_sound = 0 < len(topic.encode()) <= MOST_BYTES and topic.isprintable()
    # A wildcard is a whole level, and "#" the last one (MQTT 5, section 4.7.1).
    is_sound = is_sound and all(
        level in ("+", "#") or not {"+", "#"} & set(level) for level in levels
    )
    is_sound = is_sound and "#" not in levels[:-1] and not topic.startswith("$")
    if not is_sound:
        raise UserError(
            f"{option} mqtt:{topic}: give a topic such as site/line-1/answers, of "
            f"{MOST_BYTES} bytes at most"
        )
    return topic
