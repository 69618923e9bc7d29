"""What a client builds from its brief, and the model that its payloads lead to.

Agents and SuperNodes both use this. The description is the JSON object that the
coordinator's welcome carries.

Legend: P floats of the model's layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Layout, State
from fedlearn.brief import Brief
from fedlearn.clients.local import Local, StartModel
from fedlearn.codec import codec as find_codec
from fedlearn.data import population
from fedlearn.data.own import samples_of
from fedlearn.data.remarks import faint
from fedlearn.data.samples import Modality, Population, Samples
from fedlearn.errors import ConfigError, PayloadError
from fedlearn.models import build, layout
from fedlearn.wire import (
    SNAPSHOT,
    Header,
    decode_difference,
    decode_model,
    digest,
    read_header,
)


@dataclass(frozen=True)
class OneClient:
    """The samples of one client, in the place of those of all clients."""

    client: int
    samples: Samples

    def __len__(self) -> int:
        """Return the smallest number of clients that this one can belong to."""
        return self.client + 1

    def size(self, client: int) -> int:
        """Return the client's number of samples; raises IndexError for another client."""
        return len(self[client])

    def __getitem__(self, client: int) -> Samples:
        """Return the client's samples; raises IndexError for another client."""
        if client != self.client:
            raise IndexError(
                f"client {client}: only the data of client {self.client} is here"
            )
        return self.samples


def local_of(brief: Brief, client: int, source: str) -> Local:
    """Return a client's model and data as a brief describes them.

    source: "auto", the client's share of the experiment's data; a file.npz; or an import path.
    Raises UserError.
    """
    module = build(
        brief.model,
        brief.model_options,
        input_shape=brief.input_shape,
        classes=brief.classes,
        seed=brief.seed,
        modality=cast(Modality, brief.modality),
    )
    model_layout = layout(module)
    # Payloads carry values in order and no names: another model would read them
    # wrongly.
    if model_layout.schema.hex() != brief.schema:
        raise ConfigError(
            f"model '{brief.model}' is another one here than at the coordinator: "
            "install the same version of its code"
        )
    population = _population(brief, client, source)
    return Local(module, model_layout, population, brief.seed, brief.holdout)


def arrive(
    layout: Layout,
    payloads: Sequence[bytes],
    base: NDArray[np.float32],
    initial: NDArray[np.float32],
) -> StartModel:
    """Return the model that payloads lead to, one after another, with the last header.

    base: (P,) where a first difference starts from; initial: (P,) the run's first
    model. Raises PayloadError.
    """
    header: Header | None = None
    state = State(base, np.zeros(layout.integers, np.int64))
    for payload in payloads:
        # The kind stands in the header: a whole model, or a difference from the state so far.
        header = read_header(payload)
        if header.kind == SNAPSHOT:
            header, state = decode_model(layout, payload)
            continue
        # Computed only for codecs that need it: it is a vector of the model's size.
        moved = None
        if find_codec(header.codec).uses_moved:
            moved = state.floats - initial
        header, state = decode_difference(
            layout, payload, state.floats, digest(state.floats), moved
        )
    if header is None:
        raise PayloadError("the task came without a payload")
    return StartModel(header, state)


def _population(brief: Brief, client: int, source: str) -> Population:
    """Return the experiment's clients, or the one client that has data of its own."""
    if source == "auto":
        return population(brief.data, brief.data_options, brief.partition, brief.seed)
    modality = cast(Modality, brief.modality)
    shape = brief.input_shape
    samples = samples_of(source, modality, brief.classes, shape)
    # The coordinator tests on its own samples; this client's never leave it.
    no_test = Samples(samples.x[:0], samples.y[:0])
    clients = OneClient(client, samples)
    return Population(
        source,
        modality,
        brief.classes,
        shape,
        clients,
        no_test,
        _notes(source, samples),
    )


def _notes(source: str, samples: Samples) -> tuple[str, ...]:
    """Return what the owner should know of samples of its own."""
    # Of labels nothing: a client need not have samples of every class.
    if samples.x.ndim != 4:
        return ()
    sentence = faint(f"{source}: x", samples.x)
    return (sentence,) if sentence else ()
