"""Loading an app's two components from its folder."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from fedlearn.errors import ConfigError, pass_on_signal, reason_of


def component(what: str, reference: str) -> Any:
    """Return the object that "module:attribute" names; the app's folder is on the path.

    what: "serverapp" or "clientapp". Raises ConfigError with the line of the app's own code
    that failed; its traceback goes to standard error.
    """
    module_name, _, attributes = reference.partition(":")
    try:
        value: Any = import_module(module_name)
    # A user's module runs its own code when it is imported, which may raise anything.
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        pass_on_signal(error)
        # Into the app's log: the line of the user's code is what they look for.
        traceback.print_exc()
        raise ConfigError(
            f"{what} '{reference}': importing '{module_name}' raised {reason_of(error)}"
            f"{_hint(error)}"
        ) from error
    # Flower allows objects inside objects, such as module:wrapper.app.
    for attribute in attributes.split("."):
        try:
            value = getattr(value, attribute)
        except AttributeError:
            raise ConfigError(
                f"{what} '{reference}': '{module_name}' has no '{attributes}'"
            ) from None
        # A module's own __getattr__, or a property, is code of the app too.
        except Exception as error:
            traceback.print_exc()
            raise ConfigError(
                f"{what} '{reference}': reading '{attribute}' raised {reason_of(error)}"
            ) from error
    return value


def _hint(error: BaseException) -> str:
    """Return what to do about a package that is not installed."""
    # Flower installs nothing either; its users know the file.
    if isinstance(error, ModuleNotFoundError) and error.name:
        return "; install what the app's pyproject.toml names under dependencies"
    return ""


def client_app(reference: str) -> Any:
    """Return an app's ClientApp; raises ConfigError."""
    from flwr.clientapp import ClientApp

    app = component("clientapp", reference)
    if not isinstance(app, ClientApp):
        raise ConfigError(
            f"clientapp '{reference}' is a {type(app).__name__}, not a flwr.clientapp.ClientApp"
        )
    return app


def server_app(reference: str) -> Any:
    """Return an app's ServerApp; raises ConfigError, also for one of Flower's old style."""
    from flwr.serverapp import ServerApp

    app = component("serverapp", reference)
    if not isinstance(app, ServerApp):
        raise ConfigError(
            f"serverapp '{reference}' is a {type(app).__name__}, not a flwr.serverapp.ServerApp"
        )
    # Flower keeps it in a private attribute, and has no other way to ask.
    if getattr(app, "_main", None) is None:
        raise ConfigError(
            f"serverapp '{reference}' has no @app.main(): a ServerApp(server_fn=…) runs a "
            "strategy of flwr.server.strategy, Flower's old kind, which does not run here; "
            "write @app.main() with a strategy of flwr.serverapp.strategy"
        )
    return app


@contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """Have Python find an app's modules first, inside the block, as Flower does.

    Afterwards they are forgotten: another app may have modules of the same names.
    """
    home = str(folder.resolve())
    # In front of all others, as `flwr run` has it.
    sys.path.insert(0, home)
    before = set(sys.modules)
    try:
        yield
    finally:
        # The app may have taken it out itself.
        with suppress(ValueError):
            sys.path.remove(home)
        for name in set(sys.modules) - before:
            path = getattr(sys.modules[name], "__file__", None) or ""
            # What is installed stays: it may not bear to be imported twice.
            if path.startswith(f"{home}/"):
                del sys.modules[name]
