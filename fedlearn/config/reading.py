"""Reading a config: a TOML file or a shipped experiment, with changes of single keys.

Unknown and mistyped keys are errors that name the nearest key, the file and the line.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import tomllib
from pydantic import ValidationError

from fedlearn.config import backslashes
from fedlearn.config.plain import plain_table, plain_value
from fedlearn.config.schema import FORMER_WORDS, Section, Tables
from fedlearn.errors import ConfigError
from fedlearn.names import nearest
from fedlearn.system.own_path import look_in

SHIPPED = Path(__file__).parents[1] / "experiments"

# A value longer than this is cut in a message, which is one line.
_SHOWN_LENGTH = 80

# pydantic's words for two types, in place of which a reader of TOML knows these.
_TOML_WORDS = {
    "tuple_type": "Input should be a list",
    "model_type": "Input should be a table of keys",
}

# A key by its tables: ("data", "partition", "kind").
KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A config as it was written: its file, the text, and the tables in it."""

    path: Path
    text: str
    table: dict[str, Any]


def shipped() -> dict[str, Path]:
    """Return the experiments that come with fedlearn: name → file."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


# Changes of single keys: texts ``section.key=value``, or a mapping of keys to values.
Overrides = Sequence[str] | Mapping[str, Any] | None


class Experiment(Tables):
    """A whole config, checked; it never changes after reading."""

    @classmethod
    def read(cls, config: ConfigSource = None, changes: Overrides = ()) -> Experiment:
        """Return the experiment of a file, a shipped name or a dict of tables.

        None: the default's. changes: of single keys, such as {"train.lr": 0.05}; None
        takes a key away. Raises ConfigError naming the place and the nearest valid key.
        """
        return read(config, changes)

    def changed(self, changes: Overrides) -> Experiment:
        """Return the experiment with some keys changed. Raises ConfigError."""
        return read(self, changes)


# What an experiment is read from; see `Experiment.read`.
ConfigSource = str | Path | Mapping[str, Any] | Experiment | None


def read(config: ConfigSource, overrides: Overrides = ()) -> Experiment:
    """Return the experiment of a file, a shipped name, a dict or another experiment.

    None: the default's. overrides: changes of single keys.
    Raises ConfigError naming the place and the nearest valid key.
    """
    if isinstance(config, Experiment):
        # Checked again from its tables, because a changed key may contradict another.
        config = config.model_dump()
    if isinstance(config, Mapping):
        return checked(config, "the config", "", overrides)
    if config is not None and not isinstance(config, str | Path):
        raise ConfigError(
            f"a {type(config).__name__} is no config; give a name, a path, a dict of "
            "tables or an Experiment"
        )
    source = load(None if config is None else str(config))
    experiment = checked(source.table, str(source.path), source.text, overrides)
    if not _unjudged(source, experiment):
        return experiment
    # What the user expects by an override stays.
    table = {name: keys for name, keys in source.table.items() if name != "expect"}
    return checked(table, str(source.path), source.text, overrides)


def unjudged(config: ConfigSource, experiment: Experiment) -> str:
    """Return why a shipped experiment's ``[expect]`` does not count; "": it does.

    It is for the rounds of its file. Whoever tries a few has not been promised anything.
    """
    if config is not None and not isinstance(config, str):
        return ""
    return _unjudged(load(config), experiment)


def _unjudged(source: Source, experiment: Experiment) -> str:
    rounds = source.table.get("experiment", {}).get("rounds")
    # Resolved: in a checkout it is a link.
    is_shipped = source.path.resolve().parent == SHIPPED.resolve()
    if not is_shipped or "expect" not in source.table:
        return ""
    if rounds in (None, experiment.experiment.rounds):
        return ""
    return (
        f"what '{source.path.stem}' expects is for its own {rounds} rounds, and is not "
        f"judged after {experiment.experiment.rounds}"
    )


def read_recorded(path: str | Path, overrides: Overrides = ()) -> Experiment:
    """Return the experiment of the config that a run left in its folder.

    An earlier version may have written it, so its words are taken for today's. In a
    file of the user's own they are errors, which name today's. Raises ConfigError.
    """
    source = _read(Path(path))
    table = _in_todays_words(source.table)
    return checked(table, str(source.path), source.text, overrides)


def load(config: str | None) -> Source:
    """Return what a config file or a shipped name says, without a look at its keys.

    None: the default. From here on modules are looked for beside the file, too. Raises
    ConfigError for a file that is missing or is not TOML.
    """
    source = _read(_config_path(config))
    folder = source.path.resolve().parent
    if folder != SHIPPED:
        look_in(str(folder))
        _look_beside(source.table, "data", "path", folder)
        _look_beside(source.table, "model", "weights", folder, is_first=True)
    return source


def _look_beside(
    table: Mapping[str, Any],
    section_name: str,
    key: str,
    folder: Path,
    is_first: bool = False,
) -> None:
    """Make a key's path the one beside the config, where the current folder has none.

    is_first: what is beside the config comes first. A variant's config means its own model,
    whatever lies in the current folder.
    """
    section = table.get(section_name)
    if not isinstance(section, dict):
        return
    path = section.get(key)
    # What is wrong with it is told where the file is read.
    if not isinstance(path, str) or path.startswith("~") or "\0" in path:
        return
    beside = folder / path
    if path and beside.exists() and (is_first or not Path(path).exists()):
        section[key] = str(beside)


def _read(path: Path) -> Source:
    """Return what a file says; raises ConfigError for one that cannot be read."""
    try:
        # Some editors write a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"{path} is not a text file (TOML in UTF-8 is expected)"
        ) from None
    try:
        table = tomllib.loads(text)
    # tomllib raises ValueError for a number too long, too.
    except ValueError as error:
        fix = backslashes.fix_of(text, error)
        raise ConfigError(f"{path}: not valid TOML: {error}{fix}") from None
    except RecursionError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    backslashes.check_paths(table, str(path))
    return Source(path, text, table)


def checked(
    table: Mapping[str, Any], name: str, text: str, overrides: Overrides
) -> Experiment:
    """Return the experiment of a parsed table with changes of single keys.

    name, text: the file's, which locate errors in it. Raises ConfigError.
    """
    # A copy: the caller's table stays as it is.
    changed = plain_table(table, name)
    places: dict[KeyPath, str] = {}
    if isinstance(overrides, Mapping):
        for dotted_key, value in overrides.items():
            shown = f"changes {{{dotted_key!r}: {_shown(value)}}}"
            _set(changed, str(dotted_key).split("."), value, shown, places)
    elif isinstance(overrides, list | tuple):
        for override in overrides:
            _override(changed, override, places)
    elif overrides is not None:
        raise ConfigError(
            f"changes is a {type(overrides).__name__}; give a mapping of keys to values, "
            "such as {'train.lr': 0.05}"
        )
    return validate(changed, name, text, places)


def validate(
    table: Mapping[str, Any],
    name: str,
    text: str = "",
    places: Mapping[KeyPath, str] | None = None,
) -> Experiment:
    """Return the experiment of a parsed table.

    name, text: the file's, which locate errors in it. places: key → the override that
    gave it. Raises ConfigError for the first key that is wrong.
    """
    try:
        return Experiment.model_validate(table)
    except ValidationError as error:
        # One at a time: an error of a command is one line.
        first = error.errors()[0]
        key = tuple(str(part) for part in first["loc"])
        location = place(key, name, text, places or {})
        raise ConfigError(f"{location}: {_explanation(key, first)}") from None


def place(
    key: Sequence[str], name: str, text: str, places: Mapping[KeyPath, str]
) -> str:
    """Return where a key was given: ``file:line``, or the ``--set`` that gave it."""
    for changed_key, override in places.items():
        # Either may be the longer one: a table that is wrong holds the changed key.
        if changed_key[: len(key)] == tuple(key[: len(changed_key)]):
            return override
    line = _line(key, text)
    return f"{name}:{line}" if line else name


def _in_todays_words(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parsed table with today's words in the place of former ones."""
    renewed = copy.deepcopy(dict(table))
    for (section_name, key), words in FORMER_WORDS.items():
        section = renewed.get(section_name)
        if not isinstance(section, dict):
            continue
        value = section.get(key)
        if isinstance(value, str) and value in words:
            section[key] = words[value]
    return renewed


def _config_path(config: str | None) -> Path:
    experiments = shipped()
    if config is None:
        return experiments["default"]
    # A file beside the user wins over a shipped experiment of its name.
    if config in experiments and not Path(config).is_file():
        return experiments[config]
    if not config or not Path(config).exists():
        raise ConfigError(
            f"no file '{config}', and no shipped experiment of that name."
            f"{nearest(config, experiments)} Shipped: {', '.join(experiments)}"
        )
    if Path(config).is_dir():
        raise ConfigError(
            f"'{config}' is a folder; name a TOML file or a shipped experiment "
            f"({', '.join(experiments)})"
        )
    return Path(config)


def _override(table: dict[str, Any], override: str, places: dict[KeyPath, str]) -> None:
    """Set one key of a table, and note the override as the key's place."""
    if not isinstance(override, str):
        raise ConfigError(f"changes: {override!r:.60} is no text section.key=value")
    # Bytes that are no UTF-8, which the run folder's config.toml could not hold.
    if override != override.encode(errors="replace").decode():
        raise ConfigError(f"--set {override!a}: the value is not UTF-8 text")
    dotted_key, equals, value = override.partition("=")
    key = dotted_key.strip().split(".")
    if not equals or len(key) < 2 or not all(key):
        raise ConfigError(
            f"--set {override}: write section.key=value, for example train.lr=0.05"
        )
    shown = f"--set {_shortened(override)}"
    _set(table, key, _parsed(value), shown, places)


def _set(
    table: dict[str, Any],
    key: Sequence[str],
    value: Any,
    shown: str,
    places: dict[KeyPath, str],
) -> None:
    """Set one key of a table. shown: where it was given, for messages."""
    if len(key) < 2 or not all(key):
        raise ConfigError(f"{shown}: name a key by section.key, such as train.lr")
    section = table
    for part in key[:-1]:
        # A table that the file leaves out has its defaults, and can be changed too.
        subsection = section.setdefault(part, {})
        if not isinstance(subsection, dict):
            raise ConfigError(f"{shown}: '{part}' is a value, not a table")
        section = subsection
    # TOML has no null: None takes a key away, and its default holds.
    if value is None:
        section.pop(key[-1], None)
    else:
        section[key[-1]] = plain_value(value, shown)
    places[tuple(key)] = shown


def _parsed(value: str) -> Any:
    """Return a TOML value; text that is none is a string, so quotes can be left out."""
    text = f"value = {value}"
    try:
        return tomllib.loads(text)["value"]
    except ValueError as error:
        fix = backslashes.fix_of(text, error)
        # The quotes would be part of the text, and of the path that it is.
        if fix and value.strip().startswith('"'):
            raise ConfigError(f"--set {value.strip()}: {error}{fix}") from None
        return value.strip()
    except RecursionError:
        return value.strip()


def _explanation(key: KeyPath, error: Mapping[str, Any]) -> str:
    """Return one line about pydantic's error at a key."""
    dotted_key = ".".join(key)
    if error["type"] == "extra_forbidden":
        names = _names_in(key[:-1])
        return (
            f"unknown key '{dotted_key}'.{nearest(key[-1], names)} "
            f"Known here: {', '.join(names)}"
        )
    value = error.get("input")
    former_words = FORMER_WORDS.get(key, {})
    # Told before pydantic's list of today's words, which would not say which one it is.
    if isinstance(value, str) and value in former_words:
        word = former_words[value]
        return f"[{key[0]}] {key[1]}: '{value}' is called '{word}' now"
    message = _TOML_WORDS.get(error["type"])
    if message is None:
        # pydantic puts these words before the text of our own checks.
        message = str(error["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    # Of a whole table the message says enough.
    if isinstance(value, dict | Section):
        return f"'{dotted_key}': {message}"
    return f"'{dotted_key}': {message} (got {_shown(value)})"


def _shown(value: Any) -> str:
    try:
        return _shortened(repr(value))
    # Python writes no number of thousands of digits, and a user's class may fail.
    except Exception:
        return f"a {type(value).__name__}"


def _shortened(text: str) -> str:
    if len(text) <= _SHOWN_LENGTH:
        return text
    return f"{text[: _SHOWN_LENGTH - 3]}..."


def _names_in(table: KeyPath) -> list[str]:
    """Return the names that a table of the schema knows; empty where there is no such."""
    section: Any = Experiment
    for name in table:
        # A dict holds tables, each under a name of the user's.
        if get_origin(section) is dict:
            section = get_args(section)[1]
            continue
        field = section.model_fields.get(name)
        if field is None:
            return []
        section = field.annotation
    return list(getattr(section, "model_fields", []))


def _line(key: Sequence[str], text: str) -> int | None:
    """Return the line of a key in TOML text; of its innermost table where it has none."""
    deepest = 0
    line_number = None
    # tomllib keeps no line numbers, so the text is searched for them.
    for number, path in _keys_by_line(text):
        if tuple(key[: len(path)]) == path and len(path) > deepest:
            deepest = len(path)
            line_number = number
    return line_number


def _keys_by_line(text: str) -> Iterator[tuple[int, KeyPath]]:
    """Yield (line number, key) for each line of TOML text that opens a table or a key."""
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), 1):
        # A full parser would give no lines; for a message near is good enough.
        header = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line)
        if header:
            parts = header.group(1).split(".")
            table = tuple(part.strip().strip("'\"") for part in parts)
            yield number, table
            continue
        assignment = re.match(r"\s*([\w.'\"-]+)\s*=", line)
        if assignment:
            parts = assignment.group(1).split(".")
            yield number, (*table, *(part.strip("'\"") for part in parts))
