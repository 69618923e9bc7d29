"""Releases: what is signed is what differences arrive at, for every way to it."""

import copy
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fedlearn as fl
from fedlearn.arrays import State
from fedlearn.errors import FormatError, UserError
from fedlearn.models import write_state
from fedlearn.package import content, difference, golden
from fedlearn.package.parts import Health
from fedlearn.release.building import (
    MOST_LINKS,
    Base,
    Release,
    base_of,
    inherited,
    release,
)
from fedlearn.release.packing import Wishes
from fedlearn.release.registry import Registry
from fedlearn.runs.trained import Trained, load
from tests.release.test_packing import CONFIG

NAME = "net"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = fl.run(CONFIG, out=tmp_path_factory.mktemp("run") / "run", quiet=True)
    return load(str(run.folder))


def with_floats(trained: Trained, floats: np.ndarray) -> Trained:
    """Return a model of its own with other floats."""
    state = State(floats, trained.state.integers)
    module = copy.deepcopy(trained.module)
    write_state(module, trained.layout, state)
    return replace(trained, state=trained.layout.tie(state), module=module)


def moved(trained: Trained, seed: int, by: float = 0.003) -> Trained:
    """Return the model after some more training, which is played by a random step."""
    random = np.random.default_rng(seed)
    floats = trained.state.floats.copy()
    step = by * random.standard_normal(floats.size).astype(np.float32)
    # Variances stay above 0.
    floats += np.where(trained.layout.is_trained, step, np.abs(step))
    return with_floats(trained, floats)


class Releases:
    """Releases of one name, one after another."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.registry = Registry(folder / "registry", create=True)
        self.count = 0

    def base(self) -> Base | None:
        return base_of(self.registry, NAME)

    def add(self, trained: Trained, **options) -> Release:
        self.count += 1
        base = self.base()
        wishes = inherited(Wishes(name=NAME), base)
        options = {"gate": 100, **options}
        built = release(trained, self.folder / str(self.count), wishes, base, **options)
        self.registry.add(built.package)
        return built


@pytest.fixture
def releases(tmp_path):
    made = Releases(tmp_path)
    yield made
    made.registry.close()


def arrive(old: Release, new: Release) -> str:
    """Return the hash that a device reaches from one release to another."""
    manifest = new.package.manifest
    weights = difference.arrive(
        old.package.weights(),
        [tensor.shape for tensor in manifest.tensors],
        manifest.weights_sha256,
        manifest.deltas,
        lambda delta: new.package.file(delta.file),
    )
    return hashlib.sha256(weights.astype("<f4").tobytes()).hexdigest()


def test_the_first_release_is_whole_and_the_next_a_difference(releases, trained):
    first = releases.add(trained)
    assert first.payload_bytes is None
    assert "no release before" in first.whole_why
    assert first.package.manifest.counter == 1
    later = moved(trained, 1)
    second = releases.add(later)
    manifest = second.package.manifest
    assert second.payload_bytes == manifest.deltas[0].bytes
    # A network of 1,000 values: its exact vectors weigh more than all else.
    assert 4 * second.payload_bytes < manifest.files["weights.bin"].bytes
    assert arrive(first, second) == manifest.weights_sha256
    # The golden outputs are W′'s, and the run's own model is named.
    assert golden.check(second.package).agreeing == 1
    assert manifest.run.model_sha256 == later.model_sha256
    assert second.package.weights().tobytes() != later.state.floats.tobytes()


def test_accuracy_is_that_of_what_devices_run(releases, trained):
    releases.add(trained)
    built = releases.add(moved(trained, 1), codec="cvq(0.05)")
    package = content.read(built.package.folder)
    module = copy.deepcopy(trained.module)
    arrays = package.tensors()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name in arrays:
                tensor.copy_(torch.from_numpy(arrays[name]))
    test = trained.population.test
    inputs = torch.from_numpy(test.x).float()
    scores = module.eval()(inputs / (255 if test.x.dtype == np.uint8 else 1))
    share = float((scores.argmax(1).numpy() == test.y).mean())
    assert built.accuracy == pytest.approx(share, abs=1e-9)


def test_statistics_of_a_normalisation_arrive_exactly(releases, trained):
    releases.add(trained)
    later = moved(trained, 1)
    built = releases.add(later)
    arrays = built.package.tensors()
    exact = later.layout.split(later.state)
    for name in ("norm.running_var", "norm.running_mean", "unused"):
        assert np.array_equal(arrays[name], exact[name]), name
    assert not np.array_equal(arrays["first.weight"], exact["first.weight"])


def test_a_chain_of_five_ends_where_the_whole_weights_do(releases, trained):
    builds = [releases.add(trained)]
    model = trained
    for seed in range(1, 6):
        model = moved(model, seed)
        builds.append(releases.add(model))
    last = builds[-1]
    whole = last.package.manifest.files["weights.bin"].bytes
    links = last.package.manifest.deltas
    # As many as weigh half of the weights; whoever missed more fetches these whole.
    assert sum(delta.bytes for delta in links) <= whole / 2
    assert 2 <= len(links) <= MOST_LINKS
    for start in builds[-1 - len(links) : -1]:
        assert arrive(start, last) == last.package.manifest.weights_sha256
    if len(links) < 5:
        with pytest.raises(FormatError, match="fetch the weights whole"):
            arrive(builds[0], last)


def test_what_would_lose_too_much_goes_whole(releases, trained):
    zeros = np.where(trained.layout.is_trained, 0, trained.state.floats)
    releases.add(with_floats(trained, zeros.astype(np.float32)))
    # At a fiftieth of a bit a value next to nothing of the way arrives.
    built = releases.add(trained, codec="cvq(0.02)", gate=0.5)
    assert built.payload_bytes is None
    assert "points, and 0.5 are allowed" in built.whole_why
    assert built.accuracy == built.trained_accuracy
    assert built.package.manifest.deltas == ()


def test_values_that_a_codec_cannot_carry_go_whole(releases, trained):
    releases.add(trained)
    state = trained.state.copy()
    # The weight of a pixel that is 0 in every digit: outputs stay what they were.
    trained.layout.split(state)["first.weight"][:, 0] = 1e20
    built = releases.add(with_floats(trained, state.floats))
    assert "use raw32" in built.whole_why


class Wider(nn.Module):
    """Another network, of other shapes."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.only = nn.Linear(pixels, classes)

    def forward(self, x):
        return self.only(x.flatten(1))


class Tied(nn.Module):
    """Two names of one matrix, which a difference would tell apart."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(pixels, pixels)
        self.second = nn.Linear(pixels, pixels)
        self.second.weight = self.first.weight
        self.last = nn.Linear(pixels, classes)

    def forward(self, x):
        return self.last(self.second(torch.relu(self.first(x.flatten(1)))))


def wider(input_shape, classes):
    return Wider(int(np.prod(input_shape)), classes)


def tied(input_shape, classes):
    return Tied(int(np.prod(input_shape)), classes)


def run_of(model: str, folder):
    config = {**CONFIG, "model": {"name": f"tests.release.test_building:{model}"}}
    return load(str(fl.run(config, out=folder, quiet=True).folder))


def test_another_network_goes_whole(releases, trained, tmp_path):
    releases.add(trained)
    built = releases.add(run_of("wider", tmp_path / "run"))
    assert "other names or shapes" in built.whole_why


def test_tied_tensors_go_whole(releases, tmp_path):
    first = run_of("tied", tmp_path / "run")
    releases.add(first)
    built = releases.add(moved(first, 1))
    assert built.payload_bytes is None
    assert "has tied tensors" in built.whole_why


def test_what_was_decided_once_stays_decided(releases, trained, tmp_path):
    wishes = Wishes(
        name=NAME,
        counter=7,
        devices=("jetson",),
        labels=tuple("abcdefghij"),
        health=Health(errors=0.1),
    )
    built = release(trained, tmp_path / "first", wishes, None)
    releases.registry.add(built.package)
    later = releases.add(moved(trained, 1)).package.manifest
    assert later.counter == 8
    assert later.targets[0].devices == ("jetson",)
    assert later.labels == tuple("abcdefghij")
    assert later.health == Health(errors=0.1)
    other = inherited(Wishes(counter=20, labels=("x",)), releases.base())
    assert (other.counter, other.labels) == (20, ("x",))


def test_a_folder_that_is_there_is_left_alone(releases, trained):
    (releases.folder / "1").mkdir()
    with pytest.raises(UserError, match="there already"):
        releases.add(trained)
    assert releases.registry.names() == []
