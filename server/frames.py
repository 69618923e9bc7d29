"""The coordinator's frames, made from plain values; see `exchange.proto`."""

from __future__ import annotations

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, proto


def heartbeat() -> pb.CoordinatorFrame:
    """Return the answer to an agent's heartbeat."""
    return pb.CoordinatorFrame(heartbeat=pb.Heartbeat())


def task(message: pb.Task) -> pb.CoordinatorFrame:
    """Return the frame that asks for a piece of work."""
    return pb.CoordinatorFrame(task=message)


def chunk(key: pb.Key, offset: int, total: int) -> pb.CoordinatorFrame:
    """Return the head of a chunk of a task's payloads; its data travel beside it."""
    head = pb.Chunk(key=key, offset=offset, total=total)
    return pb.CoordinatorFrame(chunk=head)


def ack(key: Key, offset: int, stored: bool) -> pb.CoordinatorFrame:
    """Return an acknowledgement of an answer's first ``offset`` bytes."""
    message = pb.Ack(key=proto(key), offset=offset, stored=stored)
    return pb.CoordinatorFrame(ack=message)


def refusal(key: Key, reason: str) -> pb.CoordinatorFrame:
    """Return the refusal of an answer."""
    message = pb.Refusal(key=proto(key), reason=reason)
    return pb.CoordinatorFrame(refusal=message)


def cancel(key: Key, reason: str) -> pb.CoordinatorFrame:
    """Return word that a piece of work is not wanted any more."""
    message = pb.Cancel(key=proto(key), reason=reason)
    return pb.CoordinatorFrame(cancel=message)


def diagnose(number: int) -> pb.CoordinatorFrame:
    """Return the question that has an agent look at its device."""
    return pb.CoordinatorFrame(diagnose=pb.Diagnose(number=number))


def goodbye(reason: str) -> pb.CoordinatorFrame:
    """Return a goodbye to an agent that should not come back as it is."""
    return pb.CoordinatorFrame(goodbye=pb.Goodbye(reason=reason))


def goodbye_for_good() -> pb.CoordinatorFrame:
    """Return the goodbye of a run that is over."""
    message = pb.Goodbye(reason="the run is over", done=True)
    return pb.CoordinatorFrame(goodbye=message)


def goodbye_until(reason: str, again_s: tuple[float, float]) -> pb.CoordinatorFrame:
    """Return a goodbye to an agent that is to come back within a span of seconds."""
    least_s, most_s = again_s
    return pb.CoordinatorFrame(
        goodbye=pb.Goodbye(
            reason=reason,
            again_min_ms=round(1000 * least_s),
            # 0 would mean never.
            again_max_ms=max(1, round(1000 * most_s)),
        )
    )


def certificate(pem: bytes, expires: int) -> pb.CoordinatorFrame:
    """Return a renewed certificate; expires: seconds since 1970."""
    return pb.CoordinatorFrame(
        certificate=pb.Certificate(certificate=pem, expires=expires)
    )
