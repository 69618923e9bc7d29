"""What is offered, and its files, on a link that breaks: no byte comes twice or is believed."""

import asyncio
from dataclasses import dataclass, field

import pytest

from fedlearn.clients.agent import fetching
from fedlearn.clients.agent.fetching import ReleaseFetch
from fedlearn.clients.device.slots import InstallDisk
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import of, proto
from fedlearn.exchange.release_frames import (
    OFFER_KIND,
    OFFER_PLACE,
    PACKED_BYTES,
    RELEASE_KIND,
    Offer,
    packed_offer,
)
from fedlearn.exchange.releases import WantedRelease
from fedlearn.package.parts import MANIFEST_FILE
from tests.clients.device import releases

ROLLOUT = 7
CHUNK = 300


@dataclass
class Link:
    """A coordinator with one package, at the end of a link that ends after some chunks."""

    fetch: ReleaseFetch
    files: dict[tuple[str, int], bytes]
    chunks_left: int = 10**6
    sent_bytes: dict[str, int] = field(default_factory=dict)

    def connect(self, chunks: int = 10**6):
        self.chunks_left = chunks
        self.fetch.connected(self.hear)

    def hear(self, frame: pb.AgentFrame):
        _, kind, place = of(frame.ack.key)
        data = self.files[kind, place][frame.ack.offset :][:CHUNK]
        if not data:
            return
        if not self.chunks_left:
            self.fetch.disconnected()
            return
        self.chunks_left -= 1
        self.sent_bytes[kind] = self.sent_bytes.get(kind, 0) + len(data)
        chunk = pb.Chunk(
            key=frame.ack.key,
            offset=frame.ack.offset,
            total=len(self.files[kind, place]),
            data=data,
        )
        asyncio.get_running_loop().call_soon(self.fetch.chunk, chunk)


@pytest.fixture
def package(tmp_path):
    return releases.write(tmp_path / "package", 1)


@pytest.fixture
def link(tmp_path, package):
    async def step(name, release):
        raise AssertionError("nothing is made of differences here")

    disk = InstallDisk(tmp_path / "disk")
    said: list[str] = []
    fetch = ReleaseFetch(disk, 1 << 20, step, said.append)
    offer = Offer(WantedRelease(ROLLOUT, releases.name_of(package)), b"", ())
    manifest = (package.folder / MANIFEST_FILE).read_bytes()
    whole = Offer(offer.wanted, manifest, (b"signature",))
    files = {(OFFER_KIND, OFFER_PLACE): packed_offer(whole)}
    for place, path in enumerate(sorted(package.manifest.listed)):
        files[RELEASE_KIND, place] = (package.folder / path).read_bytes()
    fetch.want(offer)
    return Link(fetch, files)


def run(link, package, story=None):
    async def both():
        release = releases.name_of(package)
        work = asyncio.create_task(link.fetch.run(release))
        if story is not None:
            await story()
        return await asyncio.wait_for(work, 30)

    return asyncio.run(both())


async def settle():
    for _ in range(50):
        await asyncio.sleep(0)


def test_an_offer_and_its_files_are_fetched(link, package):
    link.connect()
    assert run(link, package) is None
    [folder] = [
        path
        for path in (link.fetch._disk.folder / "incoming").iterdir()
        if path.suffix == ""
    ]
    for path in package.manifest.files:
        assert (folder / path).read_bytes() == (package.folder / path).read_bytes()
    assert (folder / "model.sig").read_bytes() == b"signature"


def test_what_a_break_left_here_does_not_come_again(link, package):
    # The offer has several chunks, or this test proves nothing.
    assert len(link.files[OFFER_KIND, OFFER_PLACE]) > CHUNK

    async def story():
        for chunks in (1, 1, 2, 3):
            link.connect(chunks)
            # It is told at each connection what it is to have.
            link.fetch.want(Offer(WantedRelease(ROLLOUT, releases.name_of(package))))
            await settle()
        link.connect()

    assert run(link, package, story) is None
    kinds = {OFFER_KIND: 0, RELEASE_KIND: 0}
    for (kind, _), data in link.files.items():
        kinds[kind] += len(data)
    assert link.sent_bytes == kinds


def test_an_offer_that_came_whole_is_not_fetched(link, package):
    manifest = (package.folder / MANIFEST_FILE).read_bytes()
    wanted = WantedRelease(ROLLOUT, releases.name_of(package))
    link.fetch.want(Offer(wanted, manifest, (b"signature",)))
    link.connect()
    assert run(link, package) is None
    assert OFFER_KIND not in link.sent_bytes


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no zlib at all", "what was fetched is no offer"),
        (
            packed_offer(Offer(WantedRelease(1, None))),
            "what was fetched is no whole offer",
        ),
        (None, "what was fetched is no whole offer"),
    ],
)
def test_what_is_no_offer_is_asked_for_twice_and_then_refused(
    link, package, data, reason
):
    place = (OFFER_KIND, OFFER_PLACE)
    # None: all but the last byte of a real one.
    link.files[place] = link.files[place][:-1] if data is None else data
    link.connect()
    assert run(link, package) == reason
    assert link.sent_bytes == {OFFER_KIND: 2 * len(link.files[place])}


def test_another_manifest_than_the_wanted_one_is_refused(link, package, tmp_path):
    other = releases.write(tmp_path / "other", 2)
    offer = Offer(
        WantedRelease(ROLLOUT, None),
        (other.folder / MANIFEST_FILE).read_bytes(),
        (b"s",),
    )
    link.files[OFFER_KIND, OFFER_PLACE] = packed_offer(offer)
    link.connect()
    reason = run(link, package)
    assert reason is not None and "the manifest is not that of" in reason


def test_an_offer_without_an_end_takes_no_memory(link, package):
    key = proto((ROLLOUT, OFFER_KIND, OFFER_PLACE))
    link.fetch.chunk(pb.Chunk(key=key, total=PACKED_BYTES + 1, data=b"a"))
    assert link.fetch._packed == b""


def test_a_chunk_that_is_lost_is_asked_for_again(link, package, monkeypatch):
    monkeypatch.setattr(fetching, "LOST_S", 0.05)
    lost: list[int] = []
    hear = link.hear

    def hear_all_but_one(frame):
        if not lost:
            lost.append(1)
            return
        hear(frame)

    link.fetch.connected(hear_all_but_one)
    assert run(link, package) is None
