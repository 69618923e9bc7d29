"""What a Flower app's ``pyproject.toml`` says: its two components, its config, its nodes.

Nothing of the app is imported here, nor flwr, so a mistake is told at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

from fedlearn.errors import ConfigError
from fedlearn.names import nearest

PROJECT_FILE = "pyproject.toml"

# Flower's own number where a project names none: `DEFAULT_SIMULATION_CONFIG` of flwr 1.38
# to 1.42.
DEFAULT_NODES = 2

# Nodes of a run.
MOST_NODES = 10_000_000

# What a run config holds: `flwr.app.UserConfig`.
Value = bool | int | float | str
UserConfig = dict[str, Value]

_VALUES = (bool, int, float, str)

# "key=value", where a value in quotes may have spaces.
_PAIR = re.compile(r"""\s*([^\s=]+)\s*=\s*('[^']*'|"(?:[^"\\]|\\.)*"|\S+)(?=\s|$)""")

# Keys of a federation that `fedlearn run` honours.
_NODES_KEY = "num-supernodes"

# Of a TOML file: parsing takes seconds for some megabytes.
_LARGEST_BYTES = 4_000_000

# What `flwr run --federation-config` takes: the fields of its SimulationConfig.
_FEDERATION_KEYS = (
    _NODES_KEY,
    "client-resources-num-cpus",
    "client-resources-num-gpus",
    "backend",
    "verbose",
    "init-args-num-cpus",
    "init-args-num-gpus",
    "init-args-logging-level",
    "init-args-log-to-driver",
)


@dataclass(frozen=True)
class Project:
    """A Flower app as its files describe it.

    serverapp, clientapp: "module:attribute". run_config: flat, with the changes of the
    command. unused: keys of the federation that this engine has no use for. by_default:
    whether nobody has said how many nodes there are.
    """

    folder: Path
    name: str
    version: str
    publisher: str
    serverapp: str
    clientapp: str
    run_config: UserConfig
    nodes: int
    unused: tuple[str, ...] = ()
    by_default: bool = False


def is_project(folder: Path) -> bool:
    """Return whether a folder holds a Flower app: a project with ``[tool.flwr.app]``."""
    try:
        document = tomllib.loads((folder / PROJECT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(_below(document, "tool", "flwr", "app"), dict)


def read(
    folder: Path,
    changes: UserConfig | None = None,
    nodes: int | None = None,
    federation_changes: UserConfig | None = None,
) -> Project:
    """Return the app of a folder.

    changes: of keys of its run config. nodes: their number in the place of the project's.
    federation_changes: of keys of its federation, as `federation` gives them. Raises
    ConfigError that names the file, the key and the nearest one.
    """
    try:
        return _read(folder, changes or {}, nodes, federation_changes or {})
    # Dotted keys nest without a limit.
    except RecursionError:
        raise ConfigError(
            f"{folder / PROJECT_FILE}: its tables nest too deep"
        ) from None


def _read(
    folder: Path, changes: UserConfig, nodes: int | None, federation_changes: UserConfig
) -> Project:
    path = folder / PROJECT_FILE
    document = _document(folder, path)
    app = _below(document, "tool", "flwr", "app")
    if not isinstance(app, dict):
        raise ConfigError(
            f"{path} has no [tool.flwr.app]: it is no Flower app; give the folder of one"
        )
    components = app.get("components")
    if not isinstance(components, dict):
        raise ConfigError(f"{path}: [tool.flwr.app.components] is missing")
    own_federation = _federation(path, document)
    options = {**own_federation, **federation_changes}
    number = nodes or _nodes(path, options)
    project = document.get("project")
    about: dict[str, Any] = project if isinstance(project, dict) else {}
    own_config = flat(app.get("config", {}), f"{path}: [tool.flwr.app.config]")
    return Project(
        folder,
        str(about.get("name") or folder.resolve().name),
        str(about.get("version") or ""),
        str(app.get("publisher") or ""),
        _component(path, components, "serverapp"),
        _component(path, components, "clientapp"),
        merged(own_config, changes, str(path)),
        number,
        _unused(options),
        not nodes and _NODES_KEY not in options,
    )


def flat(table: Any, place: str) -> UserConfig:
    """Return a table with the keys of inner tables joined by dots, as Flower has it.

    place: where the table stands, for messages. Raises ConfigError for a value that is no
    text, number or truth value.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"{place} is no table")
    config: UserConfig = {}
    for key, value in table.items():
        if isinstance(value, dict):
            inner = flat(value, f"{place} {key}")
            config.update({f"{key}.{name}": entry for name, entry in inner.items()})
        # true is a whole number to Python, and allowed as well.
        elif isinstance(value, _VALUES):
            config[key] = value
        else:
            raise ConfigError(
                f"{place}: '{key}' is a {type(value).__name__}; Flower takes texts, numbers, "
                "true and false"
            )
    return config


def federation(changes: Sequence[str]) -> UserConfig:
    """Return what texts of ``--federation-config`` say; raises ConfigError.

    Keys and texts are those of ``flwr run``.
    """
    config = changed(changes, "--federation-config")
    for key in config:
        # Flower's engine would refuse it as well, in its own words.
        if key not in _FEDERATION_KEYS:
            raise ConfigError(
                f"--federation-config: '{key}' is no key of a federation."
                f"{nearest(key, _FEDERATION_KEYS)} The keys: {', '.join(_FEDERATION_KEYS)}"
            )
    # Told with the option's name here, and with the file's elsewhere.
    if _NODES_KEY in config:
        _nodes("--federation-config", config)
    return config


def merged(own: UserConfig, changes: UserConfig, place: str) -> UserConfig:
    """Return an app's config with changes of its keys.

    Raises ConfigError for a key that the app does not
    have: Flower refuses it as well.
    """
    config = dict(own)
    for key, value in changes.items():
        # A mistyped key would change nothing, in silence.
        if key not in config:
            keys = ", ".join(config) or "none"
            raise ConfigError(
                f"--run-config: '{key}' is not in [tool.flwr.app.config] of {place}."
                f"{nearest(key, config)} Its keys: {keys}"
            )
        config[key] = value
    return config


def changed(changes: Sequence[str], option: str = "--run-config") -> UserConfig:
    """Return what texts of a config say; raises ConfigError.

    Texts are as "lr=0.1 local-epochs=2", or the path of a TOML file. option: which has
    them, for messages.
    """
    config: UserConfig = {}
    for text in changes:
        # A path, unless it is the value of a key.
        if text.endswith(".toml") and "=" not in text:
            config.update(_of_file(Path(text).expanduser(), option))
        else:
            config.update(_of_pairs(text, option))
    return config


def _of_file(path: Path, option: str) -> UserConfig:
    return flat(_toml(path, option), f"{option} {path}")


def _of_pairs(text: str, option: str) -> UserConfig:
    config: UserConfig = {}
    start = 0
    while text[start:].strip():
        pair = _PAIR.match(text, start)
        if pair is None:
            raise ConfigError(
                f"{option}: '{text[start:].strip()}' is not key=value; write "
                f"{option} 'lr=0.1 name=\"a text\"', or give a .toml file"
            )
        config.update(_value(pair[1], pair[2], option))
        start = pair.end()
    return config


def _value(key: str, value: str, option: str) -> UserConfig:
    try:
        table = tomllib.loads(f"value = {value}")
    except ValueError:
        raise ConfigError(
            f"{option}: '{key}={value}' has no value that TOML knows; "
            f"a text needs quotes: '{key}=\"{value}\"'"
        ) from None
    return flat({key: table["value"]}, option)


def _document(folder: Path, path: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder '{folder}'; give the folder of a Flower app, "
            f"the one with its {PROJECT_FILE}"
        )
    if not path.is_file():
        raise ConfigError(
            f"'{folder}' has no {PROJECT_FILE}; give the folder of a Flower app"
        )
    return _toml(path, "")


def _toml(path: Path, option: str) -> dict[str, Any]:
    place = f"{option} {path}".strip()
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ConfigError(f"{place} has more than {_LARGEST_BYTES:,} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{place}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is no TOML: {error}") from error


def _below(table: Any, *keys: str) -> Any:
    """Return what stands under keys, one inside the other; None: nothing."""
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _component(path: Path, components: Mapping[str, Any], name: str) -> str:
    reference = components.get(name)
    if reference is None:
        names = ", ".join(components) or "nothing"
        raise ConfigError(
            f"{path}: [tool.flwr.app.components] has no '{name}', but {names}; "
            f"add {name} = 'my_app.{name}:app'"
        )
    text = reference if isinstance(reference, str) else ""
    module, _, attribute = text.partition(":")
    # A relative module would be looked for in fedlearn.
    if not module or not attribute or module.startswith("."):
        raise ConfigError(
            f"{path}: {name} = '{reference}' is not module:attribute, "
            f"such as 'my_app.{name}:app'"
        )
    return text


def _federation(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the project's default federation; empty where it has none."""
    federations = _below(document, "tool", "flwr", "federations")
    if not isinstance(federations, dict):
        return {}
    tables = [name for name, table in federations.items() if isinstance(table, dict)]
    default = federations.get("default")
    # As Flower does where one federation is all there is.
    if default is None and tables:
        default = tables[0]
    if default is None:
        return {}
    # A default elsewhere, such as a SuperLink of Flower's own configuration.
    if str(default) not in tables:
        return {}
    options = federations[str(default)].get("options", {})
    if not isinstance(options, dict):
        raise ConfigError(f"{path}: options of the federation '{default}' is no table")
    return options


def _nodes(place: Path | str, options: Mapping[str, Any]) -> int:
    number = options.get(_NODES_KEY, DEFAULT_NODES)
    is_whole = isinstance(number, int) and not isinstance(number, bool)
    if not is_whole or not 1 <= number <= MOST_NODES:
        raise ConfigError(
            f"{place}: {_NODES_KEY} = {number!r} is no whole number from 1 to {MOST_NODES}"
        )
    return int(number)


def _unused(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of a federation that have no meaning here."""
    flat_keys: list[str] = []
    for key, value in options.items():
        if key == _NODES_KEY:
            continue
        flat_keys += (
            [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key]
        )
    return tuple(flat_keys)
