"""Contents as bytes and back: exact without a codec, near with one, and nothing is dropped."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian

from fedlearn.apps import private
from fedlearn.apps.codecs import Codecs
from fedlearn.apps.downlink import NodeDownlink
from fedlearn.apps.messages import Packing, packed, raw_bytes, unpacked, whole
from fedlearn.apps.options import RunOptions
from fedlearn.errors import FormatError, PayloadError

RANDOM = np.random.default_rng(7)


def arrays(shift=0.0, **more):
    values = RANDOM.normal(shift, 1, (40, 25)).astype(np.float32)
    return ArrayRecord(
        {
            "w": Array(values),
            "steps": Array(np.array([3, 2**60])),
            "bn.running_var": Array(np.array([0.001, 4], np.float32)),
            **{name: Array(value) for name, value in more.items()},
        }
    )


def content(record):
    return RecordDict(
        {
            "arrays": record,
            "metrics": MetricRecord({"at": 1764466822123456789, "loss": [0.5, 1e-300]}),
            "config": ConfigRecord({"b": b"\0\xff", "s": "ü", "t": True, "l": ["a"]}),
        }
    )


def test_without_a_codec_all_arrives_as_it_is():
    sent = content(arrays(text=np.array(["a", "bc"]), c=np.array([1j, 2])))
    arrived = unpacked(whole(Packing().of(sent)).payload, {})
    assert arrived == sent
    assert list(arrived) == list(sent)
    assert unpacked(packed(sent, {}, "", 0).payload, {}) == sent


@pytest.mark.parametrize("codec", ["eden1", "q8", "f16", "raw32"])
def test_with_a_codec_floats_arrive_near_and_the_rest_as_it_is(codec):
    base, record = arrays(), arrays(0.1)
    sent = content(record)
    on_its_way = packed(sent, {"arrays": base}, codec, 5)
    arrived = unpacked(on_its_way.payload, {"arrays": base})
    assert on_its_way.bases == {"arrays": "arrays"}
    assert list(arrived) == list(sent)
    assert arrived["metrics"] == sent["metrics"]
    assert arrived["config"] == sent["config"]
    got = arrived.array_records["arrays"]
    assert list(got) == list(record)
    for name in ("steps", "bn.running_var"):
        assert (got[name].numpy() == record[name].numpy()).all()
    error = np.linalg.norm(got["w"].numpy() - record["w"].numpy())
    size = np.linalg.norm(base["w"].numpy() - record["w"].numpy())
    assert error < {"eden1": 0.9, "q8": 0.02, "f16": 1e-3, "raw32": 1e-6}[codec] * size
    assert got["w"].numpy().dtype == np.float32
    if codec == "eden1":
        assert len(on_its_way.payload) < on_its_way.raw_bytes / 5
    parts = {part.name: part for part in Packing().of(RecordDict({"arrays": base}))}
    raw = raw_bytes(on_its_way.payload, parts)
    assert raw == pytest.approx(on_its_way.raw_bytes, rel=0.05)


def test_a_record_of_another_name_has_the_first_alike_as_its_base():
    base = arrays()
    sent = RecordDict({"update": arrays(0.2)})
    on_its_way = packed(sent, {"other": ArrayRecord(), "model": base}, "q8", 0)
    assert on_its_way.bases == {"update": "model"}
    arrived = unpacked(on_its_way.payload, {"model": base})
    assert list(arrived) == ["update"]


@pytest.mark.parametrize(
    "record",
    [
        arrays(new=np.ones(2)),
        ArrayRecord({"w": Array(np.ones((2, 2), np.float32))}),
        ArrayRecord([np.frombuffer(b"grows", np.uint8)]),
        ArrayRecord(),
    ],
)
def test_arrays_of_another_shape_travel_whole(record):
    on_its_way = packed(RecordDict({"arrays": record}), {"arrays": arrays()}, "q8", 0)
    assert on_its_way.bases == {}
    assert unpacked(on_its_way.payload, {}).array_records["arrays"] == record


def test_values_that_no_codec_carries_travel_whole():
    base, record = arrays(), arrays()
    record["w"] = Array(np.full((40, 25), np.nan, np.float32))
    on_its_way = packed(RecordDict({"arrays": record}), {"arrays": base}, "eden1", 0)
    assert on_its_way.bases == {}
    assert np.isnan(
        unpacked(on_its_way.payload, {}).array_records["arrays"]["w"].numpy()
    ).all()


def test_an_array_of_another_dtype_travels_whole_beside_the_others():
    base, record = arrays(), arrays(0.1)
    # As Flower's strategies leave a mean of integers.
    base["steps"] = Array(np.array([1.5, 2.5]))
    on_its_way = packed(RecordDict({"arrays": record}), {"arrays": base}, "q8", 0)
    arrived = unpacked(on_its_way.payload, {"arrays": base}).array_records["arrays"]
    assert arrived["steps"].numpy().tolist() == [3, 2**60]
    assert len(on_its_way.payload) < on_its_way.raw_bytes / 2


def test_another_base_is_refused():
    base = arrays()
    on_its_way = packed(RecordDict({"arrays": arrays()}), {"arrays": base}, "q8", 0)
    with pytest.raises(PayloadError, match="other arrays than those held here"):
        unpacked(on_its_way.payload, {"arrays": arrays(3)})
    with pytest.raises(FormatError, match="a difference from no record here"):
        unpacked(on_its_way.payload, {})


def test_a_number_that_flower_cannot_carry_is_named():
    sent = RecordDict({"m": MetricRecord({"n": 2**70})})
    with pytest.raises(PayloadError, match="Flower cannot carry these records"):
        Packing().of(sent)


def test_one_model_for_all_nodes_is_made_into_bytes_once_until_it_changes():
    packing = Packing()
    record = arrays()
    first, second = [packing.of(RecordDict({"arrays": record}))[0] for _ in range(2)]
    assert first is second
    record["w"] = Array(np.zeros(3, np.float32))
    third = packing.of(RecordDict({"arrays": record}))[0]
    assert third.arrays["w"].numpy().tolist() == [0, 0, 0]


def test_a_node_is_sent_the_difference_from_what_it_holds(tmp_path):
    downlink = NodeDownlink(Codecs("", "q8", "", 2), 0, tmp_path)
    models = [arrays(), arrays(0.1), arrays(0.2)]

    def sent(node, model):
        return downlink.sent(node, Packing().of(RecordDict({"arrays": model})))

    first, held = sent(0, models[0])
    assert first.bases == {}
    assert held["arrays"].arrays == models[0]
    second, held = sent(0, models[1])
    assert second.bases == {"arrays": sent_digest(models[0])}
    arrived = unpacked(second.payload, {"arrays": models[0]})
    assert arrived.array_records["arrays"] == held["arrays"].arrays
    # Another node, which was never there, is sent the model whole.
    assert sent(1, models[1])[0].bases == {}
    downlink.sweep()
    # A copy of each node's own is left, and no third.
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("codec", "error"), [("q8", 0.03), ("q4", 0.4)])
def test_a_first_record_travels_by_its_codec(codec, error, tmp_path):
    more = {"h": RANDOM.normal(0, 3, 50).astype(np.float16), "e": np.ones((0, 3))}
    record = arrays(**more)
    sent = content(record)
    on_its_way = packed(sent, {}, "eden1", 5, codec)
    assert on_its_way.bases == {}
    arrived = unpacked(on_its_way.payload, {})
    assert list(arrived) == list(sent)
    assert arrived["config"] == sent["config"]
    held = arrived.array_records["arrays"]
    assert list(held) == list(record)
    for name in ("steps", "bn.running_var", "e"):
        assert (held[name].numpy() == record[name].numpy()).all()
    assert held["h"].dtype == "float16"
    difference = held["w"].numpy() - record["w"].numpy()
    norm = np.linalg.norm(record["w"].numpy())
    assert 0 < np.linalg.norm(difference) < error * norm
    assert len(on_its_way.payload) < 0.4 * on_its_way.raw_bytes
    # A node that holds it is sent a difference, by the other codec.
    following = packed(content(record), {"arrays": held}, "eden1", 6, codec)
    assert following.bases == {"arrays": "arrays"}


@pytest.mark.parametrize(
    "record",
    [
        ArrayRecord({"w": Array(np.full(3, np.inf, np.float32))}),
        ArrayRecord({"n": Array(np.arange(3))}),
        ArrayRecord({"w": Array("float32", (3,), "numpy.ndarray", b"")}),
        ArrayRecord(),
    ],
)
def test_a_first_record_that_no_codec_carries_travels_whole(record):
    on_its_way = packed(RecordDict({"a": record}), {}, "q8", 0, "q8")
    assert unpacked(on_its_way.payload, {}).array_records["a"] == record


def test_an_update_counts_from_what_the_server_sent():
    original, trained = arrays(), arrays()
    copy = unpacked(
        packed(RecordDict({"a": original}), {}, "q4", 1, "q4").payload, {}
    ).array_records["a"]
    update = trained["w"].numpy() - copy["w"].numpy()
    reply = packed(RecordDict({"a": trained}), {"a": copy}, "raw32", 0).payload
    arrived = unpacked(reply, {"a": copy}, {"a": original}).array_records["a"]
    expected = original["w"].numpy() + update
    assert np.abs(arrived["w"].numpy() - expected).max() < 1e-5
    # Statistics are values of the node, whatever it began with.
    name = "bn.running_var"
    assert (arrived[name].numpy() == trained[name].numpy()).all()
    # A record of another name was no copy of it: a gradient, say.
    other = packed(RecordDict({"g": trained}), {"a": copy}, "raw32", 0).payload
    arrived = unpacked(other, {"a": copy}, {"a": original}).array_records["g"]
    assert np.abs(arrived["w"].numpy() - trained["w"].numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("strategy", "size", "first"),
    [
        (FedAvg, 5000, "cvq(3,0)"),
        (FedMedian, 5000, "q8"),
        (None, 5000, "q8"),
        (FedAvg, 50, "f16"),
    ],
)
def test_a_first_codec_is_chosen_by_strategy_and_size(strategy, size, first):
    chosen = Codecs.of(RunOptions("auto", "auto"), 4)
    chosen.strategy = strategy
    record = ArrayRecord({"w": Array(np.ones(size, np.float32))})
    chosen.look(Packing().of(RecordDict({"a": record})))
    assert chosen.first == first
    # Whoever names the way down names its first record too, or has it whole.
    assert Codecs.of(RunOptions("auto", "q8"), 4).first == ""
    assert Codecs.of(RunOptions("", "q8", "auto"), 4).first == "auto"


def sent_digest(record):
    return Packing().of(RecordDict({"arrays": record}))[0].digest


def test_the_same_records_give_the_same_bytes():
    record = content(arrays())
    assert private.to_bytes(record) == private.to_bytes(
        private.of_bytes(private.to_bytes(record))
    )
