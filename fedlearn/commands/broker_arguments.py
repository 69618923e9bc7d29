"""The options that name a broker, for all commands that go to one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedlearn.clients.messages.broker import Broker

DEFAULT = "127.0.0.1"


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Add the options. No password is among them: lists of processes show options."""
    group = parser.add_argument_group("the broker, MQTT 5")
    group.add_argument(
        "--broker",
        metavar="HOST[:PORT]",
        default=DEFAULT,
        help="or mqtts://HOST[:PORT], with TLS (default: %(default)s)",
    )
    group.add_argument(
        "--broker-ca", type=Path, metavar="FILE", help="the broker's authority, PEM"
    )
    group.add_argument(
        "--broker-cert", type=Path, metavar="FILE", help="a certificate for it, PEM"
    )
    group.add_argument(
        "--broker-key", type=Path, metavar="FILE", help="the certificate's key, PEM"
    )
    group.add_argument(
        "--broker-user",
        default="",
        metavar="NAME",
        help="the user's name (default: $FEDLEARN_MQTT_USER)",
    )
    group.add_argument(
        "--broker-password",
        type=Path,
        metavar="FILE",
        help="a file with the password, which only you can read "
        "(default: $FEDLEARN_MQTT_PASSWORD)",
    )


def broker_of(arguments: argparse.Namespace) -> Broker:
    """Return the broker that the options name; raises UserError."""
    from fedlearn.clients.messages import broker

    files = broker.BrokerFiles(
        arguments.broker_ca, arguments.broker_cert, arguments.broker_key
    )
    return broker.parsed(
        arguments.broker,
        files,
        arguments.broker_user,
        arguments.broker_password,
        arguments.insecure,
    )
