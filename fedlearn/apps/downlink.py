"""How records reach the nodes: whole, or as differences from what each of them holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flwr.app import RecordDict

from fedlearn.apps import private
from fedlearn.apps.codecs import Codecs
from fedlearn.apps.copies import Copies
from fedlearn.apps.messages import Part, Sent, bases_of, packed, unpacked, whole
from fedlearn.codec import AUTO
from fedlearn.seeds import derive


class NodeDownlink:
    """What the nodes hold, by the names of the records that they were sent last."""

    def __init__(self, codecs: Codecs, seed: int, folder: Path) -> None:
        """Take the codecs of the run, and the folder of what nodes hold."""
        self._codecs = codecs
        self._seed = seed
        self._copies = Copies(folder)
        # Node's partition → record → the digest of its copy.
        self._held: dict[int, dict[str, str]] = {}
        # (digests held, digests sent) → what was made of them: nodes that hold the same are
        # sent the same.
        self._made: dict[object, tuple[Sent, list[Part]]] = {}

    def sent(
        self, partition: int, parts: Sequence[Part]
    ) -> tuple[Sent, dict[str, Part]]:
        """Return a content on its way to a node, and the ArrayRecords that arrive there."""
        self._codecs.look(parts)
        if self._codecs.down in ("", AUTO):
            return self._whole(parts)
        # Record → the digest of the copy that this node has.
        copies = self._held.setdefault(partition, {})
        key = (tuple(sorted(copies.items())), tuple(part.digest for part in parts))
        if key not in self._made:
            self._made[key] = self._encoded(copies, parts)
        content, arrived = self._made[key]
        self._held[partition] = {
            **copies,
            **{part.name: part.digest for part in arrived},
        }
        return content, {part.name: part for part in arrived}

    def held(self, partition: int) -> tuple[str, ...]:
        """Return the digests of the records that a node holds, sorted."""
        return tuple(sorted(set(self._held.get(partition, {}).values())))

    def _whole(self, parts: Sequence[Part]) -> tuple[Sent, dict[str, Part]]:
        """Return a content as it is, the same bytes for all nodes that are sent it."""
        arrays = [part for part in parts if part.is_arrays]
        key = (None, tuple((part.name, part.digest) for part in parts))
        # A large model would otherwise be in memory once for each node.
        if key not in self._made:
            self._made[key] = whole(list(parts)), arrays
        content, _ = self._made[key]
        return content, {part.name: part for part in arrays}

    def sweep(self) -> None:
        """Let go of contents that are there, and of copies that no node holds."""
        if not self._made:
            return
        self._made.clear()
        needed = {d for digests in self._held.values() for d in digests.values()}
        self._copies.sweep(needed)

    def _encoded(
        self, copies: dict[str, str], parts: Sequence[Part]
    ) -> tuple[Sent, list[Part]]:
        """Return a content as differences from what is held, and what it arrives as."""
        bases = {name: self._copies.arrays(digest) for name, digest in copies.items()}
        content = private.of_bytes(b"".join(part.data for part in parts))
        # The same for all nodes that hold the same.
        seed = derive(self._seed, "app-down", *(int(p.digest[:8], 16) for p in parts))
        codecs = self._codecs
        draft = packed(content, bases, codecs.down, seed, codecs.first)
        arrived = unpacked(draft.payload, bases)
        digests = {r: copies[base] for r, base in bases_of(draft.payload).items()}
        on_its_way = Sent(draft.payload, draft.raw_bytes, _by_base(draft, digests))
        # Decoded here as the node decodes it: both ends then hold the same bits.
        return on_its_way, self._copied(arrived)

    def _copied(self, arrived: RecordDict) -> list[Part]:
        parts: list[Part] = []
        for name, record in arrived.array_records.items():
            part = Part(name, private.to_bytes(RecordDict({name: record})), True)
            self._copies.put(part)
            parts.append(part)
        return parts


def _by_base(draft: Sent, digests: dict[str, str]) -> dict[str, str]:
    """Return base's name → digest: what the node has to look up."""
    return {base: digests[record] for record, base in draft.bases.items()}
