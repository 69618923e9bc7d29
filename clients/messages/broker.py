"""How to reach a broker: its address, its TLS, and a password that no list of processes shows."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import socket
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedlearn.clients.infer.addresses import is_loopback
from fedlearn.errors import UserError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_Item = TypeVar("_Item")

PORT = 1883
TLS_PORT = 8883

USER = "FEDLEARN_MQTT_USER"
PASSWORD = "FEDLEARN_MQTT_PASSWORD"

_SCHEMES = {"": False, "mqtt": False, "mqtts": True}
_ADDRESS = re.compile(r"(?:([a-z]+)://)?(\[[^\]]+\]|[^:/\[\]]+)(?::(\d{1,5}))?")

# A password is one line; MQTT's own limit is 65,535 bytes.
_PASSWORD_BYTES = 65_535


@dataclass(frozen=True)
class BrokerFiles:
    """PEM files of the way to a broker. ca: None: the system's authorities."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return what a connection begins with; raises UserError for files that are none."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--broker-ca {self.ca}: no certificate of an authority ({error})"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is None or self.key is None:
            return context
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--broker-cert {self.certificate}, --broker-key {self.key}: no "
                f"certificate with its key ({error})"
            ) from None
        return context


@dataclass(frozen=True)
class Broker:
    """A broker, and who we are to it. tls: None: in the clear."""

    host: str
    port: int
    tls: BrokerFiles | None = None
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """Return it as logs and messages name it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"

    def client(self, name: str, **options: Any) -> Client:
        """Return a client of MQTT 5 that is not connected; name: its id for the broker.

        Raises UserError where paho-mqtt is not installed.
        """
        try:
            from paho.mqtt import client as mqtt
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise UserError(
                "MQTT needs paho-mqtt: pip install 'fedlearn[mqtt]'"
            ) from None
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5, **options
        )
        if self.user or self.password:
            client.username_pw_set(self.user or None, self.password or None)
        if self.tls is not None:
            client.tls_set_context(self.tls.context())
        # A board waits for its network; a minute is soon enough after an hour.
        client.reconnect_delay_set(1, 60)
        client.on_socket_open = _send_at_once
        return client


def _send_at_once(client: Any, data: Any, connection: Any) -> None:
    """Have the kernel hold back no small packet: most of MQTT's are acknowledgements."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def properties(packet: str, **values: Any) -> Any:
    """Return MQTT 5's properties of a packet, such as PUBLISH, by the names that it has."""
    from paho.mqtt import properties as mqtt
    from paho.mqtt.packettypes import PacketTypes

    # The package has no types here.
    make: Any = mqtt.Properties
    named = make(getattr(PacketTypes, packet))
    for name, value in values.items():
        setattr(named, name, value)
    return named


def parsed(
    text: str, tls: BrokerFiles, user: str, password_file: Path | None, insecure: bool
) -> Broker:
    """Return the broker of "HOST", "HOST:PORT" or "mqtts://HOST:PORT". Raises UserError.

    A broker on another machine needs TLS, unless ``insecure`` says that it is meant.
    """
    if "@" in text:
        raise UserError(
            "--broker: user and password do not go into the address, which every list of "
            "processes shows; give --broker-user and --broker-password FILE"
        )
    match = _ADDRESS.fullmatch(text)
    if not match or (match[1] or "") not in _SCHEMES:
        raise UserError(f"--broker {text}: give HOST, HOST:PORT or mqtts://HOST:PORT")
    if bool(tls.certificate) != bool(tls.key):
        raise UserError("--broker-cert and --broker-key go together")
    is_secure = _SCHEMES[match[1] or ""] or tls != BrokerFiles()
    port = int(match[3] or (TLS_PORT if is_secure else PORT))
    if not 0 < port <= 65535:
        raise UserError(f"--broker {text}: a port is a number from 1 to 65535")
    host = match[2].strip("[]")
    if not (is_secure or is_loopback(host) or insecure):
        raise UserError(
            f"--broker {text} is another machine, and answers would go there in the clear: "
            "give mqtts:// or --broker-ca, or --insecure"
        )
    return Broker(
        host,
        port,
        tls if is_secure else None,
        user or os.environ.get(USER, ""),
        _password(password_file),
    )


def _password(path: Path | None) -> str:
    """Return the password of a file, or of the environment. Raises UserError."""
    if path is None:
        return os.environ.get(PASSWORD, "")
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_PASSWORD_BYTES + 2)
    except OSError as error:
        raise UserError(f"--broker-password {path}: {error.strerror}") from None
    # As ssh does with keys: what everybody reads is no secret.
    if stat.S_IMODE(mode) & 0o077:
        raise UserError(
            f"--broker-password {path}: others may read it; chmod 600 {path}"
        )
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError:
        lines = []
    if len(lines) != 1 or len(data) > _PASSWORD_BYTES:
        raise UserError(f"--broker-password {path}: it has to be one line of text")
    return lines[0]


def taken(arrived: queue.Queue[_Item], most: int) -> list[_Item]:
    """Return what has come, up to so many; it waits 0.2 s for the first, and for no other."""
    items: list[_Item] = []
    with contextlib.suppress(queue.Empty):
        items.append(arrived.get(timeout=0.2))
        while len(items) < most:
            items.append(arrived.get_nowait())
    return items
