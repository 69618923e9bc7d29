"""What a user's own Dataset and Population must be, and the gate before a population's clients."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from fedlearn.data.fingerprint import changes
from fedlearn.data.own_arrays import checked_array, checked_samples
from fedlearn.data.own_columns import owner_numbers
from fedlearn.data.partition import Partitioned
from fedlearn.data.remarks import remarks
from fedlearn.data.samples import ClientData, Dataset, Modality, Population, Samples
from fedlearn.errors import DataError, reason_of

# Clients whose size is asked for when a population is checked: a million would take too long.
SIZES_CHECKED = 10_000


@dataclass(frozen=True, eq=False)
class CheckedClients:
    """The clients of a user's population, whose samples are checked when they are asked for.

    name: of the data set. The other fields are those of `Population`.
    """

    name: str
    modality: Modality
    classes: int
    input_shape: tuple[int, ...]
    clients: ClientData
    # Those that were read once and needed no cast: a check would cost as much as reading.
    ready: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.clients)

    def size(self, client: int) -> int:
        """Return the number of training samples of one client."""
        return self.clients.size(client)

    def __getitem__(self, client: int) -> Samples:
        """Return the samples of one client as training takes them; raises DataError."""
        samples = self.clients[client]
        if client in self.ready:
            return samples
        where = f"{self.name}, client {client}"
        if not (hasattr(samples, "x") and hasattr(samples, "y")):
            raise DataError(
                f"{where} gives a {type(samples).__name__}; give fedlearn Samples(x, y)"
            )
        # Who has nothing fails where it is trained, in the words of its round.
        if not len(samples.y):
            return samples
        part = checked_part(where, "own", samples, self)
        if part.x is samples.x and part.y is samples.y:
            self.ready.add(client)
        return part


def checked_population(name: str, population: Population) -> Population:
    """Return a Population; raises DataError where it cannot be scored or counted.

    Samples of a client are checked in its rounds: reading all of them here could take hours.
    """
    test = checked_part(name, "test", population.test, population)
    clients = population.clients
    _check_sizes(name, clients)
    notes = list(population.notes)
    if not notes:
        notes += remarks(name, population.modality, None, test, population.classes)
    gate: ClientData
    if isinstance(clients, Partitioned):
        # In memory already, so all are checked at once.
        train = checked_part(name, "train", clients.train, population)
        gate = replace(clients, train=train)
    else:
        shape = tuple(population.input_shape)
        gate = CheckedClients(
            name, population.modality, population.classes, shape, clients
        )
    ready = replace(population, clients=gate, test=test)
    if changes(ready):
        notes.append(
            f"{name}: client 0 gives other samples each time that it is read, so no other "
            "run has this one's result; draw them from a seed"
        )
    return replace(ready, notes=tuple(notes))


def checked_dataset(name: str, data: Dataset) -> Dataset:
    """Return a Dataset with its arrays as training takes them.

    Raises DataError where its parts do not fit each other.
    """
    count = len(data.train)
    # Sizes first: the columns are compared with the number of training samples.
    train = checked_part(name, "train", data.train, data)
    test = checked_part(name, "test", data.test, data)
    labels = data.labels
    if not _is_whole_column(labels, count):
        raise DataError(
            f"{name}: column 'labels' must be whole numbers, "
            f"one for each of the {count} training samples"
        )
    ids = {
        key: owner_numbers(name, column, count, f"column '{key}'")
        for key, column in data.ids.items()
    }
    notes = data.notes or remarks(name, data.modality, train, test, data.classes)
    return replace(data, train=train, test=test, ids=ids, notes=tuple(notes))


def checked_part(
    name: str, part: str, samples: Samples, data: Dataset | Population | CheckedClients
) -> Samples:
    """Return samples as training takes them.

    Raises DataError where they do not fit each other, or the figures of their set.
    """
    x = checked_array(name, f"{part}.x", samples.x)
    y = checked_array(name, f"{part}.y", samples.y)
    ready = checked_samples(name, part, data.modality, x, y)
    if ready.x.shape[1:] != tuple(data.input_shape):
        raise DataError(
            f"{name}: {part}.x has samples of shape {ready.x.shape[1:]}, "
            f"input_shape says {data.input_shape}"
        )
    if data.modality != "text" and int(ready.y.max()) >= data.classes:
        raise DataError(
            f"{name}: {part}.y has label {ready.y.max()}, but classes = {data.classes}"
        )
    return ready


def _is_whole_column(column: object, count: int) -> bool:
    """Tell whether a column is a numpy array (count,) of whole numbers."""
    return (
        isinstance(column, np.ndarray)
        and column.shape == (count,)
        and column.dtype.kind in "iu"
    )


def _check_sizes(name: str, clients: ClientData) -> None:
    """Raise DataError for a population without clients, or whose sizes cannot be told."""
    try:
        count = min(len(clients), SIZES_CHECKED)
        for client in range(count):
            clients.size(client)
    # The clients are the user's code, which may raise anything.
    except Exception as error:
        raise DataError(
            f"data set '{name}': the sizes of its clients cannot be told: "
            f"{reason_of(error)}"
        ) from error
    if not count:
        raise DataError(f"data set '{name}' has no clients")
