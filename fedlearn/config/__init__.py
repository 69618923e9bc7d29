"""An experiment: one TOML file, read into strict, frozen models.

The tables ``[data]``, ``[data.partition]``, ``[model]`` and ``[strategy]`` are open:
what stands beside ``name`` (``kind``) is passed to the thing named, which checks it when
it is built.
"""

from fedlearn.config.reading import (
    SHIPPED,
    ConfigSource,
    Experiment,
    Overrides,
    Source,
    checked,
    load,
    place,
    read,
    read_recorded,
    shipped,
    unjudged,
    validate,
)
from fedlearn.config.schema import (
    FORMER_WORDS,
    ClientSection,
    CodecSection,
    DataSection,
    DevicesSection,
    EngineSection,
    EvaluateSection,
    ExpectSection,
    ExperimentSection,
    FleetSection,
    ModelSection,
    OpenSection,
    PartitionSection,
    ProfileSection,
    Section,
    StrategySection,
    TrainSection,
    TuneSection,
)
from fedlearn.config.writing import to_toml

__all__ = [
    "FORMER_WORDS",
    "SHIPPED",
    "ClientSection",
    "CodecSection",
    "ConfigSource",
    "DataSection",
    "DevicesSection",
    "EngineSection",
    "EvaluateSection",
    "ExpectSection",
    "Experiment",
    "ExperimentSection",
    "FleetSection",
    "ModelSection",
    "OpenSection",
    "Overrides",
    "PartitionSection",
    "ProfileSection",
    "Section",
    "Source",
    "StrategySection",
    "TrainSection",
    "TuneSection",
    "checked",
    "load",
    "place",
    "read",
    "read_recorded",
    "shipped",
    "to_toml",
    "unjudged",
    "validate",
]
