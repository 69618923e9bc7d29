"""A short form of `mqtt_kills`: broker, subscriber and device are killed, nothing is lost."""

import pytest

from tests.clients.infer import mqtt_kills
from tests.clients.messages.brokers import needs_mosquitto

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")


@needs_mosquitto
def test_answers_outlive_kills(tmp_path):
    names = ["broker", "subscriber", "device"]
    lost, twice, line = mqtt_kills.run(300, 6, names, 4, tmp_path)
    assert (lost, twice) == (0, 0), line
