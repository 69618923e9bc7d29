"""What the configs in a strategy's messages ask of clients, and what of it nobody reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import Message

from fedlearn.names import nearest
from fedlearn.strategies.plans import CHANGED, unread

# Record → its values.
Configs = Mapping[str, Mapping[str, Any]]


def configs_of(message: Message) -> dict[str, dict[str, Any]]:
    """Return the configs of a message by their records."""
    records = message.content.config_records
    return {name: dict(record) for name, record in records.items()}


class Requests:
    """Reads the configs of one run's messages."""

    def __init__(
        self, reads_plan: bool, has_app: bool, note: Callable[[str], None]
    ) -> None:
        """Take who reads the configs.

        reads_plan: clients train by the plan. has_app: a ClientApp or mods get the configs
        as they are. note: called once for each key that nobody reads.
        """
        self.reads_plan = reads_plan
        self.has_app = has_app
        self.note = note
        self._noted: set[str] = set()

    def changes(self, configs: Configs) -> dict[str, Any]:
        """Return all records' values in one: strategies use records of their own names."""
        changes: dict[str, Any] = {}
        for values in configs.values():
            changes |= values
        return changes

    def for_plan(self, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the plan is made of, and note keys that nobody reads."""
        if not self.reads_plan:
            # To a user's app "epochs" may mean anything; what is answered is ours.
            return {key: changes[key] for key in ("task",) if key in changes}
        if not self.has_app:
            for key in unread(changes):
                self._note(key)
        return changes

    def _note(self, key: str) -> None:
        if key in self._noted:
            return
        self._noted.add(key)
        self.note(
            f"the strategy's config says '{key}', which no client reads."
            f"{nearest(key, CHANGED)}"
        )
