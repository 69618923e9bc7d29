"""A release's files on their way: resumed, reused, made of differences, and refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from fedlearn.clients.device.incoming import IncomingRelease
from fedlearn.clients.device.release_work import work
from fedlearn.clients.device.slots import SIGNATURES, InstallDisk
from fedlearn.errors import PackageError
from fedlearn.exchange.release_frames import Offer
from fedlearn.exchange.releases import WantedRelease
from fedlearn.package import content, golden, npz, signature
from fedlearn.package.parts import (
    FUNCTIONS_GOLDEN_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    function_file,
)
from fedlearn.release import functions
from fedlearn.server.release import make_pair
from tests.clients.device import releases
from tests.package import functional, small

MOST = 1 << 20


@pytest.fixture
def disk(tmp_path):
    return InstallDisk(tmp_path / "device")


def offer_of(package):
    data = (package.folder / MANIFEST_FILE).read_bytes()
    return Offer(WantedRelease(1, releases.name_of(package)), data, (b"signature",))


def send(incoming, package, path):
    """Give what is missing of a file in two pieces, the first of them twice."""
    data = (package.folder / path).read_bytes()
    place = incoming.place(path)
    start = incoming.length(path)
    half = (start + len(data) + 1) // 2
    for begin, end in ((start, half), (start, half), (half, len(data))):
        if begin < end:
            incoming.add(place, begin, data[begin:end])
    return incoming.finish(path)


def order(step, disk, package, **more):
    name = releases.name_of(package)
    values = {"name": name.name, "counter": name.counter, "digest": name.digest}
    return work({"step": step, "folder": str(disk.folder), **values, **more})


def test_the_signatures_have_the_names_of_a_package():
    assert SIGNATURES == content.SIGNATURES


def test_files_go_on_where_a_killed_process_left_them(disk, tmp_path):
    package = releases.write(tmp_path / "p", 1)
    incoming = IncomingRelease(disk, offer_of(package), MOST)
    data = (package.folder / WEIGHTS_FILE).read_bytes()
    place = incoming.place(WEIGHTS_FILE)
    assert incoming.add(place, 0, data[:30]) == 30
    # What does not follow, and what is too long, is not taken.
    assert incoming.add(place, 40, data[40:]) == 30
    assert incoming.add(place, 30, data) == 30
    assert incoming.add(10**6, 0, data) == 0
    again = IncomingRelease(disk, offer_of(package), MOST)
    assert again.length(WEIGHTS_FILE) == 30
    assert again.add(place, 30, data[30:]) == len(data)
    assert again.finish(WEIGHTS_FILE)
    for path in again.missing():
        assert send(again, package, path)
    (again.folder / "model.sig").unlink()
    assert content.read(again.folder).sha256 == package.sha256


def test_other_bytes_than_were_signed_come_once_more(disk, tmp_path):
    package = releases.write(tmp_path / "p", 1)
    incoming = IncomingRelease(disk, offer_of(package), MOST)
    place = incoming.place(WEIGHTS_FILE)
    incoming.add(place, 0, bytes(72))
    assert not incoming.finish(WEIGHTS_FILE)
    assert incoming.length(WEIGHTS_FILE) == 0 and WEIGHTS_FILE in incoming.missing()


def test_what_a_slot_holds_is_not_fetched(disk, tmp_path):
    one, two = (releases.write(tmp_path / f"p{n}", n) for n in (1, 2))
    disk.stage(one, "a", releases.name_of(one))
    incoming = IncomingRelease(disk, offer_of(two), MOST)
    assert sorted(incoming.missing()) == ["golden.npz", WEIGHTS_FILE]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digest": "0" * 64}, "the manifest is not that of"),
        ({"counter": 2}, "names another release than"),
        ({"name": "other"}, "names another release than"),
    ],
)
def test_a_manifest_of_another_release_is_refused(disk, tmp_path, changes, words):
    offer = offer_of(releases.write(tmp_path / "p", 1))
    release = replace(offer.wanted.release, **changes)
    wrong = replace(offer, wanted=WantedRelease(1, release))
    with pytest.raises(PackageError, match=words):
        IncomingRelease(disk, wrong, MOST)


def test_more_bytes_than_the_owner_lets_are_refused_before_one_travels(disk, tmp_path):
    offer = offer_of(releases.write(tmp_path / "p", 1))
    with pytest.raises(
        PackageError, match="bytes would travel, and the owner lets 100"
    ):
        IncomingRelease(disk, offer, 100)


# Differences


@pytest.fixture
def pair(tmp_path, disk):
    """A release in slot a, and the next one with a difference that leads to it."""
    one, two = releases.write_pair(tmp_path)
    disk.stage(one, "a", releases.name_of(one))
    return two, two.manifest.deltas[0].file


def test_a_difference_is_fetched_in_place_of_the_weights_and_ends_at_their_bits(
    disk, pair
):
    two, file = pair
    incoming = IncomingRelease(disk, offer_of(two), MOST)
    assert file in incoming.missing() and WEIGHTS_FILE not in incoming.missing()
    for path in incoming.missing():
        assert send(incoming, two, path)
    assert order("assemble", disk, two) == {"objection": None}
    assert incoming.missing() == []
    (incoming.folder / "model.sig").unlink()
    assert content.read(incoming.folder).sha256 == two.sha256
    travelled = two.manifest.listed[file].bytes
    assert 20 * travelled < two.manifest.files[WEIGHTS_FILE].bytes


def test_a_difference_that_is_damaged_costs_one_whole_transfer(disk, pair):
    two, file = pair
    incoming = IncomingRelease(disk, offer_of(two), MOST)
    for path in incoming.missing():
        assert send(incoming, two, path)
    place = incoming.folder / file
    place.write_bytes(place.read_bytes()[:-1] + b"?")
    assert (
        "has another SHA-256 than is listed"
        in order("assemble", disk, two)["objection"]
    )
    incoming.give_up_differences()
    assert incoming.missing() == [WEIGHTS_FILE]
    assert send(incoming, two, WEIGHTS_FILE) and incoming.missing() == []


def test_a_difference_that_is_not_here_is_named_and_one_that_is_unknown_is_not_needed(
    disk, pair
):
    two, file = pair
    incoming = IncomingRelease(disk, offer_of(two), MOST)
    reply = order("assemble", disk, two)
    assert (reply["objection"], reply["needs"]) == (None, file)
    assert not incoming.need(file) and not incoming.need("deltas/unknown.fl")


# The work


def test_a_release_that_is_not_signed_by_an_accepted_key_is_refused_by_name(
    disk, tmp_path
):
    package = releases.write(tmp_path / "p", 1)
    incoming = IncomingRelease(disk, offer_of(package), MOST)
    for path in incoming.missing():
        assert send(incoming, package, path)
    owner = {"names": ["small"], "keys": [], "floor": 0}
    owner |= {"device": "", "functions": False}
    objection = order("verify", disk, package, **owner)["objection"]
    assert objection.startswith("refused (signature)")


def test_golden_inputs_memory_and_latency_are_tried_on_this_board(disk, tmp_path):
    sound = releases.write(tmp_path / "sound", 1)
    disk.stage(sound, "a", releases.name_of(sound))
    reply = order("try", disk, sound, slot="a", most_megabytes=0)
    assert reply["objection"] is None and reply["run_ms"] > 0
    signed = {
        name: bound for name, bound in reply["limits"].items() if bound is not None
    }
    assert signed == {"errors": 0.01, "p99_ms": 200.0, "drift": 0.25}
    small = order("try", disk, sound, slot="a", most_megabytes=1)
    assert "refused (memory)" in small["objection"]
    wrong = releases.write(tmp_path / "wrong", 2, is_golden=False)
    disk.stage(wrong, "b", releases.name_of(wrong))
    reply = order("try", disk, wrong, slot="b", most_megabytes=0)
    assert "refused (golden)" in reply["objection"]
    assert order("inspect", disk, wrong, slot="b") == {"objection": None}


# Functions


def arrived(disk, package):
    """Bring all files of a release here, and return what the device says of it."""
    incoming = IncomingRelease(disk, offer_of(package), MOST)
    for path in incoming.missing():
        assert send(incoming, package, path)
    return incoming


@pytest.fixture
def with_functions(tmp_path):
    key = make_pair(tmp_path / "keys")
    package = functional.written(tmp_path / "p")
    signed = signature.sign(package, key.sign, key.public_pem)
    content.write_signatures(package.folder, [signed])
    return package, key.public_pem.decode(), signed


def test_functions_are_fetched_agreed_to_staged_and_tried(disk, with_functions):
    package, pem, signed = with_functions
    incoming = arrived(disk, package)
    content.write_signatures(incoming.folder, [signed])
    owner = {"names": ["small"], "keys": [pem], "floor": 0, "device": ""}
    refusal = order("verify", disk, package, **owner, functions=False)["objection"]
    assert refusal.startswith(
        "refused (functions): the package has the functions 'single'"
    )
    assert "functions = yes in [releases]" in refusal
    agreed = order("verify", disk, package, **owner, functions=True)
    assert agreed == {"objection": None}
    assert order("stage", disk, package, slot="a") == {"objection": None}
    staged = content.read(disk.place("a"))
    assert staged.sha256 == package.sha256
    reply = order("try", disk, package, slot="a", most_megabytes=0)
    assert reply["objection"] is None and reply["run_ms"] > 0


def test_functions_that_a_slot_has_do_not_travel_again(disk, with_functions):
    package, _, _ = with_functions
    disk.stage(package, "a", releases.name_of(package))
    files = small.files(small.W + np.float32(1))
    answers = golden.from_bytes(files[GOLDEN_FILE], small.manifest(files))
    manifest, more = functions.with_functions(
        small.manifest(files, counter=4),
        functional.WISHES,
        answers,
        functional.PAIRS,
    )
    place = package.folder.parent / "next"
    newer = content.write(place, manifest, {**files, **more})
    incoming = IncomingRelease(disk, offer_of(newer), MOST)
    assert not [path for path in incoming.missing() if path.endswith(".onnx")]
    graph = function_file("best")
    assert (incoming.folder / graph).read_bytes() == more[graph]


def test_a_function_that_came_with_other_bytes_has_to_come_again(disk, with_functions):
    package, _, _ = with_functions
    incoming = IncomingRelease(disk, offer_of(package), MOST)
    path = function_file("best")
    data = package.file(path)
    incoming.add(incoming.place(path), 0, data[:-1] + b"?")
    assert not incoming.finish(path)
    # More than is listed is not taken.
    assert incoming.add(incoming.place(path), 0, data + b"?") == 0
    assert path in incoming.missing()


def test_functions_that_answer_otherwise_on_this_board_end_the_trial(disk, tmp_path):
    _, files = functional.made()
    arrays = npz.loads(files[FUNCTIONS_GOLDEN_FILE], FUNCTIONS_GOLDEN_FILE)
    arrays = {**arrays, "output_1": arrays["output_1"] + 1}
    package = functional.rewritten(
        tmp_path / "p", FUNCTIONS_GOLDEN_FILE, npz.dumps(arrays)
    )
    disk.stage(package, "a", releases.name_of(package))
    reply = order("try", disk, package, slot="a", most_megabytes=0)
    assert reply["objection"].startswith(
        "refused (function): functions/golden.npz asks"
    )
