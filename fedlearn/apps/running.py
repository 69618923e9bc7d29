"""One run of a whole Flower app, from its folder to a run folder."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from flwr.app import Context, RecordDict
from flwr.serverapp.strategy import Strategy

from fedlearn.apps import private
from fedlearn.apps.codecs import Codecs
from fedlearn.apps.downlink import NodeDownlink
from fedlearn.apps.grid import AppGrid
from fedlearn.apps.hearing import LOG_FILE, Hearing
from fedlearn.apps.lines import lost_text
from fedlearn.apps.loading import on_path, server_app
from fedlearn.apps.messages import unpacked
from fedlearn.apps.observing import AppLine, AppObserver
from fedlearn.apps.page import write_page
from fedlearn.apps.pool import AppNodes
from fedlearn.apps.record import AppRecord
from fedlearn.apps.recording import Recording, arrays_sha256, write_arrays
from fedlearn.apps.replies import ReplyJournal
from fedlearn.apps.report import line_text
from fedlearn.apps.start import Started
from fedlearn.apps.states import NodeStates
from fedlearn.apps.surroundings import put_back
from fedlearn.apps.work import AppSettings
from fedlearn.apps.workers import Workers
from fedlearn.errors import FedlearnError, RunError, pass_on_signal, reason_of
from fedlearn.records.writing import RunFolder
from fedlearn.seeds import derive, isolated

# Folders that a run needs until it is over.
JOURNAL_FOLDER = "journal"
STATES_FOLDER = "states"
COPIES_FOLDER = "copies"


# Opens those who answer the messages of a run; the last is where they print.
OpenNodes = Callable[[Started, RunFolder, BinaryIO], AppNodes]


def local_nodes(started: Started, folder: RunFolder, log: BinaryIO) -> AppNodes:
    """Open the nodes of a run as processes of this machine. Raises RecordError."""
    project = started.project
    path = folder.path.resolve()
    settings = AppSettings(
        project.folder.resolve(),
        project.clientapp,
        project.run_config,
        project.nodes,
        started.seed,
        path / COPIES_FOLDER,
        path / STATES_FOLDER,
        started.node_configs,
    )
    workers = Workers(settings, started.workers, log)
    # A journal that cannot be opened must leave no process behind.
    try:
        replies = ReplyJournal(path / JOURNAL_FOLDER)
    except BaseException:
        workers.close()
        raise

    def close(over: bool) -> None:
        replies.close()
        workers.close()

    return AppNodes(workers, replies, unpacked, close)


def execute(
    started: Started,
    folder: RunFolder,
    quiet: bool,
    open_nodes: OpenNodes = local_nodes,
) -> dict[str, Any]:
    """Run an app, or go on with its run, and return the summary.

    open_nodes: those who answer its messages.

    Raises ConfigError for an app that cannot be loaded, RunError when its ServerApp raises,
    RecordError when the folder cannot be written.
    """
    hearing = Hearing(folder.path, quiet)
    try:
        return _Execution(started, folder, hearing).run(open_nodes)
    finally:
        hearing.close()


class _Execution:
    """The parts of one run."""

    def __init__(self, started: Started, folder: RunFolder, hearing: Hearing) -> None:
        self._started = started
        self._folder = folder
        self._hearing = hearing
        self._recording = Recording(folder)
        self._observer = AppObserver(self._on_line, self._on_look)
        self._codecs = Codecs.of(started.options, started.project.nodes)

    def run(self, open_nodes: OpenNodes) -> dict[str, Any]:
        """Return the summary of the run."""
        over = False
        # First: a ClientApp is imported while this process imports the ServerApp.
        app_nodes = open_nodes(self._started, self._folder, self._hearing.pipe)
        try:
            grid = self._grid(app_nodes)
            self._serve(grid, app_nodes)
            self._observer.end()
            summary = self._end(grid)
            # Only now: agents of a run that failed are to come back.
            over = True
        finally:
            app_nodes.close(over)
        for name in (JOURNAL_FOLDER, STATES_FOLDER, COPIES_FOLDER):
            # All that a resume would need, and a finished run needs no more.
            shutil.rmtree(self._folder.path / name, ignore_errors=True)
        return summary

    def _grid(self, app_nodes: AppNodes) -> AppGrid:
        path = self._folder.path.resolve()
        seed = self._started.seed
        return AppGrid(
            self._started.project.nodes,
            seed,
            app_nodes,
            NodeStates(path / STATES_FOLDER),
            self._codecs,
            NodeDownlink(self._codecs, seed, path / COPIES_FOLDER),
            self._observer,
            self._started.options.client_timeout_s,
        )

    def _serve(self, grid: AppGrid, app_nodes: AppNodes) -> None:
        """Run the ServerApp to its end."""
        project = self._started.project
        seed = self._started.seed
        private.enter()
        with on_path(project.folder), self._hearing.server():
            # A module may draw while it is imported: the same in each run.
            with isolated(derive(seed, "server-app-import")):
                app = server_app(project.serverapp)
            # An app that cannot be loaded ends the run before its first message.
            app_nodes.answerers.ready()
            context = Context(
                run_id=private.RUN_ID,
                node_id=private.SERVER_NODE,
                node_config={},
                state=RecordDict(),
                run_config=dict(project.run_config),
            )
            with (
                isolated(derive(seed, "server-app")),
                _one_thread(),
                self._observer.watching(),
                self._strategy_noted(),
            ):
                self._call(app, grid, context)

    def _call(self, app: Any, grid: AppGrid, context: Context) -> None:
        """Call the ServerApp; what its code raises is one line, and a traceback in the log."""
        try:
            with put_back() as surroundings:
                self._called(app, grid, context)
                self._tell(surroundings.new_threads())
        # Of the run itself, or of who ends it.
        except (FedlearnError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # The cause, where the app has wrapped it.
            if grid.failure is not None:
                raise grid.failure from error
            traceback.print_exc()
            raise RunError(
                f"the ServerApp raised {reason_of(error)}{_place(error, self._started)}"
                f"{self._before()}; its traceback is in {self._folder.path / LOG_FILE}"
            ) from error
        if grid.failure is not None:
            raise grid.failure

    def _called(self, app: Any, grid: AppGrid, context: Context) -> None:
        """Call the ServerApp in this process alone; sys.exit() ends it in order."""
        process = os.getpid()
        try:
            app(grid, context)
        except SystemExit as error:
            # Before the app's own handlers of signals are put back, or it knows none of them.
            pass_on_signal(error)
            # What ended the run, where the app has passed over it.
            if grid.failure is not None:
                raise grid.failure from error
            if error.code not in (None, 0):
                raise RunError(
                    f"the ServerApp ended the program with code {error.code}"
                ) from error
        finally:
            # The app forked, and its new process came back here: one run is enough.
            if os.getpid() != process:
                os._exit(0)

    def _tell(self, threads: list[threading.Thread]) -> None:
        # Python waits for them before it ends.
        if threads:
            self._hearing.show(
                f"the ServerApp left a thread running ('{threads[0].name}'): the command "
                "ends when it does"
            )

    def _before(self) -> str:
        """Return what the error of a ServerApp may come from; "": nothing that is known."""
        self._observer.end()
        lost = lost_text(self._recording.lines)
        return f", after {lost}" if lost else ""

    @contextmanager
    def _strategy_noted(self) -> Iterator[None]:
        """Know which strategy drives the rounds: a codec is chosen by it."""
        original = Strategy.start
        codecs = self._codecs

        def start(strategy: Strategy, *arguments: Any, **options: Any) -> Any:
            codecs.strategy = type(strategy)
            return original(strategy, *arguments, **options)

        Strategy.start = start  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            Strategy.start = original  # type: ignore[method-assign]

    def _on_look(self, round_number: int, done: int, total: int) -> None:
        text = (
            "" if done == total else f"round {round_number}: {done} of {total} answered"
        )
        self._hearing.progress(text)

    def _on_line(self, line: AppLine) -> None:
        plain = self._recording.add(line)
        self._hearing.show(line_text(plain))

    def _end(self, grid: AppGrid) -> dict[str, Any]:
        """Write what the run leaves, and return its summary."""
        sums = self._recording.sums()
        summary = {
            "name": self._started.project.name,
            **_result(self._folder, self._observer),
            "messages_sha256": grid.digest,
            **sums,
            "nodes": self._started.project.nodes,
            "seed": self._started.seed,
            "codec": _codec(self._codecs),
        }
        lines = tuple(self._recording.lines)
        path = self._folder.path
        write_page(AppRecord(path, self._started.plain(), lines, summary, True))
        # Last: a folder with a summary holds a whole run.
        self._recording.summary(summary)
        return summary


def _result(folder: RunFolder, observer: AppObserver) -> dict[str, Any]:
    """Return what is known of the arrays that the app's strategy ended with."""
    if not observer.results:
        return {"model_sha256": None, "result": None, "parameters": None}
    record = observer.results[-1].arrays
    # The last strategy's, where an app runs several.
    name = write_arrays(folder, record)
    return {
        "model_sha256": arrays_sha256(record) if name else None,
        "result": name or None,
        "parameters": sum(array.numpy().size for array in record.values())
        if all(array.stype == "numpy.ndarray" for array in record.values())
        else None,
    }


def _codec(codecs: Codecs) -> dict[str, str]:
    return {
        "up": codecs.up or "whole",
        "down": codecs.down or "whole",
        "first": codecs.first or "whole",
        "why": codecs.why,
    }


def _place(error: BaseException, started: Started) -> str:
    """Return where in the app's own code an error came from; "": nowhere there."""
    home = str(started.project.folder.resolve())
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(f"{home}{os.sep}"):
            return f" ({os.path.relpath(frame.filename, home)}, line {frame.lineno})"
    return ""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have torch compute on one thread inside the block, where it is loaded.

    Sums in an order of their own for each number of threads would differ in their bits.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
