"""Why a request has no answer: one sentence, the status that HTTP has for it, and a kind."""

from __future__ import annotations

from fedlearn.errors import FedlearnError, reason_of

# What the metrics count apart: docs/infer.md lists them.
KINDS = (
    "bad_request",
    "unknown",
    "too_large",
    "too_slow",
    "unsupported",
    "busy",
    "late",
    "rate",
    "stopping",
    "model",
    "function",
    "function_time",
    "internal",
)


class Refusal(FedlearnError):
    """A request that is not answered, because of itself or of what goes on here.

    status: HTTP's (RFC 9110, section 15). kind: one of `KINDS`. retry_s: after how many
    seconds another try may succeed; None: it will not by waiting.
    """

    def __init__(
        self, status: int, kind: str, text: str, retry_s: int | None = None
    ) -> None:
        """Keep what HTTP, gRPC and the metrics each want of it."""
        super().__init__(text)
        self.status = status
        self.kind = kind
        self.retry_s = retry_s


def bad(text: str) -> Refusal:
    """Return the refusal of a request that is wrong in itself."""
    return Refusal(400, "bad_request", text)


def internal(error: Exception) -> Refusal:
    """Return the refusal of a request that shows a mistake of ours."""
    return Refusal(500, "internal", f"the server made a mistake: {reason_of(error)}")
