"""A link whose bandwidth changes: nothing is lost, and nothing comes while it is dead."""

import asyncio
import contextlib

import pytest

from fedlearn.scenarios.radio import Radio

DATA = bytes(range(256)) * 2000


async def echo(reader, writer):
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            writer.write(piece)
    writer.close()


def carried(rate: float, dead_first: bool) -> tuple[bool, bytes]:
    """Return whether anything came while the link was dead, and all that came back."""

    async def go():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        radio = Radio(server.sockets[0].getsockname()[1], 0.002)
        port = await radio.open()
        radio.rate = 0.0 if dead_first else rate
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(DATA)
        early = False
        if dead_first:
            with pytest.raises(asyncio.TimeoutError):
                early = bool(await asyncio.wait_for(reader.read(1), 0.2))
            radio.rate = rate
        data = await asyncio.wait_for(reader.readexactly(len(DATA)), 30.0)
        writer.close()
        radio.close()
        server.close()
        # The relay's ends reach the server.
        await asyncio.sleep(0.1)
        return early, data

    return asyncio.run(go())


def test_all_bytes_come_in_their_order():
    assert carried(1e9, dead_first=False) == (False, DATA)


def test_bytes_wait_while_the_link_is_dead():
    assert carried(1e9, dead_first=True) == (False, DATA)
