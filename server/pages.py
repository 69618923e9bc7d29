"""A coordinator's figures and its health, by HTTP on this machine alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fedlearn.errors import RunError
from fedlearn.server.figures import ExchangeFigures, Lines, exposition

# Metrics name clients; whoever is to see them from outside puts a proxy before this.
LOOPBACK = "127.0.0.1"

# How long a caller may take for its request.
SILENT_S = 5.0

# A page's status code and text; one that begins as a document of HTML is one.
Page = Callable[[], tuple[int, str]]
HTML_START = "<!doctype html>"

_TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HTML_TYPE = "text/html; charset=utf-8"


class HttpPages:
    """An HTTP server of a few pages, in threads of its own."""

    def __init__(self, port: int, pages: Mapping[str, Page]) -> None:
        """Listen on a port of 127.0.0.1 (0: any that is free).

        pages: path → what answers there. Raises RunError when the port is taken.
        """
        try:
            self._server = _Server((LOOPBACK, port), _answers(pages))
        except OSError as error:
            raise RunError(
                f"cannot tell metrics at {LOOPBACK}:{port}: "
                f"{error.strerror or error}; give another --metrics-port"
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


class Pages(HttpPages):
    """A run's pages: `/metrics` and `/healthz`."""

    def __init__(
        self,
        port: int,
        figures: Callable[[], ExchangeFigures],
        lines: Lines,
        rounds: int,
    ) -> None:
        """Listen on a port of 127.0.0.1 (0: any that is free).

        figures: returns them as they are now; raises RunError where it cannot. lines,
        rounds: of the run. Raises RunError when the port is taken.
        """
        self._figures = figures
        self._lines = lines
        self._rounds = rounds
        # Each request has a thread of its own.
        self._looking = threading.Lock()
        pages = {"/metrics": self._metrics, "/healthz": lambda: health(figures)}
        super().__init__(port, pages)

    def _metrics(self) -> tuple[int, str]:
        figures = self._figures()
        # Two callers at once would read the same lines twice.
        with self._looking:
            self._lines.look()
            return 200, exposition(figures, self._lines, self._rounds)


def health(figures: Callable[[], ExchangeFigures]) -> tuple[int, str]:
    """Return the page that says whether a coordinator is well."""
    trouble = figures().trouble
    if trouble is None:
        return 200, "ok\n"
    return 503, f"{trouble}\n"


class _Server(ThreadingHTTPServer):
    # Threads of callers that hang must not keep the process alive.
    daemon_threads = True
    request_queue_size = 16

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a caller that went away is no concern of the run's."""


def _answers(pages: Mapping[str, Page]) -> type[BaseHTTPRequestHandler]:
    """Return a handler of requests that answers with some pages."""

    class PageRequest(BaseHTTPRequestHandler):
        timeout = SILENT_S

        def do_GET(self) -> None:
            code, text = self._answer()
            data = text.encode()
            self.send_response(code)
            kind = _HTML_TYPE if text.startswith(HTML_START) else _TEXT_TYPE
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def _answer(self) -> tuple[int, str]:
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                return 404, f"there is {' and '.join(pages)}\n"
            try:
                return page()
            except RunError as error:
                return 503, f"{error}\n"

    return PageRequest
