"""The check of a name's text that comes from the wire; nothing is imported for it."""

from __future__ import annotations

from collections.abc import Collection

from fedlearn.errors import ConfigError

# fedlearn's own things have short names. By import path a coordinator could go around the
# checks of those names, such as that of "dir".
_OURS = "fedlearn"


def is_plain(module: str, attribute: str) -> bool:
    """Tell whether a name is one public name of a module that is none to be run."""
    parts = module.split(".")
    # Dots would lead on into what the module imports.
    if not attribute.isidentifier() or not all(part.isidentifier() for part in parts):
        return False
    # `__main__` is a program: to import it is to run it.
    is_program = any(part.startswith("__") for part in parts)
    return not (attribute.startswith("_") or is_program)


def is_below(module: str, allow: Collection[str]) -> bool:
    """Tell whether a module is an allowed one, or inside of one."""
    if module == _OURS or module.startswith(f"{_OURS}."):
        return False
    # The dots: "my_pkg" allows "my_pkg.models", and not "my_pkg_other".
    return f"{module}.".startswith(tuple(f"{allowed}." for allowed in allow))


def check_app(clientapp: str, apps: Collection[str]) -> None:
    """Raise ConfigError for a ClientApp that the owner does not allow.

    clientapp: "module:attribute". apps: packages and modules, and exact names
    ``module:attribute``.
    """
    # The exact name is the owner's own choice, whatever it leads to.
    if ":" in clientapp and clientapp in apps:
        return
    module, _, attribute = clientapp.partition(":")
    wish = f"the coordinator asks for the ClientApp '{clientapp}' of this device"
    if not is_plain(module, attribute):
        raise ConfigError(
            f"{wish}, which no module defines; only if you know what it does, to allow it: "
            f"--apps {clientapp}"
        )
    if not is_below(module, apps):
        package = module.partition(".")[0]
        raise ConfigError(
            f"{wish}; to allow it: --apps {package}, or apps = {package} in agent.ini"
        )
