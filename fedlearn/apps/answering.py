"""How a worker answers a message: the app's own code, with seeds and a state of its node."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict

from fedlearn.apps import private
from fedlearn.apps.copies import Copies
from fedlearn.apps.messages import Part, packed, unpacked
from fedlearn.apps.states import state_path
from fedlearn.apps.surroundings import put_back
from fedlearn.apps.work import RAISED, AppSettings, NodeAnswer, Work
from fedlearn.errors import ClientError, reason_of
from fedlearn.seeds import derive
from fedlearn.system import files


class Answering:
    """An app's ClientApp that answers the messages of any node."""

    def __init__(self, app: Any, settings: AppSettings) -> None:
        """Take the app and what is the same for all messages."""
        self._app = app
        self._settings = settings
        self._copies = Copies(settings.copies)
        self._told_threads = False

    def __call__(self, work: Work) -> NodeAnswer:
        """Return what the app answers; whatever its code raises is an answer too."""
        try:
            return self._answer(work)
        # A client's code may end its process on purpose; here that ends its answer.
        except BaseException as error:
            # It may have closed the stream.
            with contextlib.suppress(ValueError, OSError):
                traceback.print_exc()
            reason = reason_of(error)
            return NodeAnswer(work.number, code=RAISED, reason=reason)

    def _answer(self, work: Work) -> NodeAnswer:
        bases = {
            name: self._copies.arrays(digest) for name, digest in work.bases.items()
        }
        # The message comes from the ServerApp, the code that answers it is a node's.
        private.enter()
        content = unpacked(work.payload, bases)
        self._keep(work, content)
        message = private.request_of(
            content,
            work.node,
            work.kind,
            work.group,
            work.message_id,
            work.ttl,
        )
        private.enter(work.node)
        # The same file again where a message is tried a second time.
        before = b""
        if work.state:
            before = self._state_path(work, work.state).read_bytes()
        context = self._context(work, before)
        self._seed(work)
        reply = self._called(message, context)
        _check(reply, work)
        if reply.has_error():
            error = reply.error
            # An app may choose any number; 0 is a reply, and those below are ours.
            code = error.code if error.code > 0 else RAISED
            return NodeAnswer(work.number, code=code, reason=error.reason or "")
        payload = self._payload(work, reply, bases)
        # The app's own state must be whole before its reply counts.
        after = private.to_bytes(context.state)
        if after != before:
            path = self._state_path(work, work.turn)
            files.make_folder(path.parent)
            files.replace(path, after)
        return NodeAnswer(work.number, payload, changed=after != before)

    def _called(self, message: Message, context: Context) -> Any:
        """Return what the app answers, in this process and with its surroundings as before."""
        process = os.getpid()
        with put_back() as surroundings:
            try:
                reply = self._app(message, context)
            finally:
                # The app forked, and its new process came back here: one answer is enough.
                if os.getpid() != process:
                    os._exit(0)
            self._tell(surroundings.new_threads())
        return reply

    def _tell(self, threads: list[threading.Thread]) -> None:
        # Once in each worker: with every message there may be one more.
        if threads and not self._told_threads:
            self._told_threads = True
            print(
                f"fedlearn: the ClientApp left a thread running ('{threads[0].name}'): what "
                "it changes or draws meanwhile is another in each run",
                file=sys.stderr,
            )

    def _state_path(self, work: Work, turn: int) -> Path:
        return state_path(self._settings.states, work.partition, turn)

    def _keep(self, work: Work, content: RecordDict) -> None:
        """Keep the records of a message that later ones are differences from."""
        # The other end has made them already where both are one machine.
        missing = {d for d in work.keep if not self._copies.has(d)}
        if not missing:
            return
        for name, record in content.array_records.items():
            part = Part(name, private.to_bytes(RecordDict({name: record})), True)
            # One with other bits than at the other end is asked for when it is needed.
            if part.digest in missing:
                self._copies.put(part)

    def _context(self, work: Work, state: bytes) -> Context:
        settings = self._settings
        node_config = {
            "partition-id": work.partition,
            "num-partitions": settings.nodes,
            **settings.node_configs.get(work.partition, {}),
        }
        return Context(
            run_id=private.RUN_ID,
            node_id=work.node,
            node_config=node_config,
            state=private.of_bytes(state),
            run_config=dict(settings.run_config),
        )

    def _seed(self, work: Work) -> None:
        """Seed the global generators: the same draws in whichever worker, at any time."""
        seed = derive(self._settings.seed, "app", work.partition, work.turn)
        random.seed(seed)
        # numpy's old generator takes 32 bits.
        np.random.seed(seed % 2**32)
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.manual_seed(seed)

    def _payload(
        self, work: Work, reply: Message, bases: Mapping[str, ArrayRecord]
    ) -> bytes:
        codec = work.up
        # The app may have written into the records that it was sent: anew.
        request = unpacked(work.payload, bases) if codec else RecordDict()
        seed = derive(self._settings.seed, "app-up", work.partition, work.turn)
        # Only these can be a base: the ServerApp holds them as well.
        records = dict(request.array_records.items())
        return packed(reply.content, records, codec, seed).payload


def _check(reply: Any, work: Work) -> None:
    """Raise ClientError for what is no reply."""
    # Whatever a user's function returns comes through Flower's unchanged.
    if not isinstance(reply, Message):
        raise ClientError(
            f"the app's function for '{work.kind}' returned {type(reply).__name__}; "
            "it must return a Message(…, reply_to=…)"
        )
    if not reply.has_error() and not reply.has_content():
        raise ClientError(
            f"the app's reply to '{work.kind}' has neither content nor error"
        )
