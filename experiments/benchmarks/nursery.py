"""Processes forked from one that has their imports: they start in milliseconds, not seconds.

They are processes like any other, with a session, memory, descriptors and an end of their own;
what they share is what was read from disk before they began. Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import traceback
from asyncio.streams import FlowControlMixin
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from fedlearn.errors import RunError
from fedlearn.system import failpoints

Command = Callable[[list[str]], int]

_ORDER_BYTES = 1 << 16


class Child:
    """A process that a nursery started; it looks like one of asyncio's."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader

    def __init__(self, pid: int, told: socket.socket) -> None:
        """Take its process id, and the socket that tells its end."""
        self.pid = pid
        self.returncode: int | None = None
        self._ending = asyncio.create_task(self._end(told))

    async def wait(self) -> int:
        """Return its exit code; minus the signal that ended it."""
        return await asyncio.shield(self._ending)

    def kill(self) -> None:
        """Kill it; raises ProcessLookupError when it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, signal.SIGKILL)

    async def _end(self, told: socket.socket) -> int:
        with told:
            text = await asyncio.get_running_loop().sock_recv(told, 16)
        if not text:
            raise RunError("the process that starts the others has ended")
        self.returncode = int(text)
        return self.returncode


class Nursery:
    """Starts processes on demand, until it is closed; those that run then are killed."""

    def __init__(
        self, commands: Mapping[str, Command], warm: Callable[[], None]
    ) -> None:
        """Fork it, from a process that has no threads yet. commands: what can be started. warm:
        imports what they need.
        """
        self.address = f"\0fedlearn-nursery-{os.getpid()}-{os.urandom(8).hex()}"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listening.bind(self.address)
        listening.listen(64)
        ends, self._life = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._life)
            try:
                signal.signal(
                    signal.SIGINT, signal.SIG_IGN
                )  # Ctrl-C is its maker's, whose end it sees
                failpoints.arm("")  # before anything is imported that has points
                warm()
                gc.freeze()  # a collection would touch, and so copy, the memory that all share
                _live(listening, ends, commands)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(3)
        os.close(ends)
        listening.close()

    def close(self) -> None:
        """End it and all that it started."""
        os.close(self._life)
        os.waitpid(self.pid, 0)


def start(
    address: str,
    command: str,
    arguments: Sequence[str] = (),
    files: Sequence[int] = (0, 1, 2),
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a command in the nursery at an address; files: its standard input, output and
    error. Needs a running event loop.

    environment: variables beyond the nursery's own; those of the failpoints arm the child.
    Raises RunError when the nursery has ended.
    """
    told = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told.connect(address)
    socket.send_fds(
        told,
        [json.dumps([command, list(arguments), dict(environment or {})]).encode()],
        files,
    )
    pid = told.recv(16)
    told.setblocking(False)
    if not pid:
        raise RunError("the process that starts the others has ended")
    return Child(int(pid), told)


async def start_with_pipes(
    address: str, command: str, environment: Mapping[str, str] | None = None
) -> Child:
    """Start a command with pipes as its standard input and output."""
    loop = asyncio.get_running_loop()
    (theirs_in, into), (out, theirs_out) = os.pipe(), os.pipe()
    made = start(address, command, (), (theirs_in, theirs_out, 2), environment)
    os.close(theirs_in)
    os.close(theirs_out)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(out, "rb")
    )
    transport, flow = await loop.connect_write_pipe(
        FlowControlMixin, os.fdopen(into, "wb")
    )
    made.stdin, made.stdout = asyncio.StreamWriter(transport, flow, None, loop), reader
    return made


def _live(listening: socket.socket, ends: int, commands: Mapping[str, Command]) -> None:
    selector = selectors.DefaultSelector()
    selector.register(listening, selectors.EVENT_READ)
    selector.register(ends, selectors.EVENT_READ)
    children: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is listening:
                asking, _ = listening.accept()
                text, files, _, _ = socket.recv_fds(asking, _ORDER_BYTES, 3)
                if not text:  # who asked was killed meanwhile
                    asking.close()
                    continue
                pid = os.fork()
                if not pid:
                    _be(json.loads(text), files, commands)
                for file in files:
                    os.close(file)
                with contextlib.suppress(OSError):
                    asking.send(str(pid).encode())
                ending = os.pidfd_open(pid)
                children[ending] = pid, asking
                selector.register(ending, selectors.EVENT_READ)
            elif key.fileobj == ends:
                for pid, _ in children.values():
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            else:
                pid, asking = children.pop(key.fd)
                selector.unregister(key.fd)
                os.close(key.fd)
                with contextlib.suppress(OSError), asking:
                    asking.send(
                        str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode()
                    )


def _be(
    order: tuple[str, list[str], dict[str, str]],
    files: Sequence[int],
    commands: Mapping[str, Command],
) -> NoReturn:
    """Become a command."""
    code = 3
    try:
        command, arguments, environment = order
        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(environment)
        failpoints.arm(
            environment.get(failpoints.VARIABLE, ""),
            environment.get(failpoints.LOG, ""),
        )
        code = commands[command](arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 3
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
