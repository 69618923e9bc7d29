"""A world with an authority: who is let in changes, and dates are wrong.

The authority is the real one, in a folder: certificates, tokens, revocations, and the gate that
looks at them. The rest of a world is as in `tests.exchange.world`. An hour of the date is a
second here, so certificates expire, and are renewed, while a run goes on. What can go wrong:

- dates jump, the coordinator's and an agent's, forward and back;
- tokens and certificates are lost on their way, and tokens are used too late or twice;
- clients are revoked, and let in again by a new token;
- the authority's folder is restored from an old copy;
- whoever changes the folder is killed at one of its writes.

What must hold: a certificate that was revoked never gets in again, an expired one ends its
connection, a token lets one client in once, no number is used twice, and no certificate that is
good is turned away. When dates are right again, everybody who is not revoked comes in.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from fedlearn.clients.agent import identity as agents
from fedlearn.errors import FedlearnError, UserError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.server import (
    authority,
    certificates,
    enrollment,
    frames,
    identity,
    tokens,
)
from fedlearn.server.actions import SendToAgent
from fedlearn.server.gate import CertificateGate
from fedlearn.server.identity import IdentityError
from tests.exchange.parties import Agent, Broken, holds
from tests.exchange.world import World

# Seconds of the date in a second of a world.
SCALE = 3600.0
EPOCH = 1.9e9

DAY_S = 86400.0
JUMPS_S = (7200.0, DAY_S, 40 * DAY_S, 400 * DAY_S)

# How often a person looks after the agents, and an agent after its certificate.
PERSON_S = 3.0
CHORES_S = 1.0

# As the service does (`fedlearn.server.service.POLL_S`), and a little more than that.
POLL_S = 0.5
NOTICED_S = 0.6

TRUST_FAULTS = (
    "coordinator_date",
    "agent_date",
    "right_dates",
    "revoke",
    "backup",
    "restore",
)

SOMETIMES = (
    *TRUST_FAULTS,
    "enrolled",
    "reply_lost",
    "renewed",
    "renewal_refused",
    "readmitted",
    "token used",
    "token expired",
    "token unknown",
    "turned_away",
    "expired_at_tls",
    "expired_while_connected",
    "server_not_believed",
    "server_renewed",
    "authority_killed",
)
"""What has to happen at least once in some hundred of these worlds."""


class Killed(BaseException):
    """The process that changes the authority's folder ends here."""


class TurnedAway(Exception):
    """A call that the gate has ended."""


@dataclass(frozen=True)
class Issued:
    """A certificate. begins, ends: seconds since 1970."""

    pem: bytes
    client: int
    serial: int
    begins: float
    ends: float


class Call:
    """What the gate sees of a call."""

    def __init__(self, pem):
        self.pem = pem

    def auth_context(self):
        return {"x509_pem_cert": [self.pem]}

    async def abort(self, code, text):
        raise TurnedAway(text)


def _request():
    """Return a request for a certificate; one key does for all agents here."""
    key = certificates.new_key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


REQUEST = _request()


class TrustedWorld(World):
    """See the module."""

    def __init__(self, seed, trace=None):
        super().__init__(seed, trace)
        # Of its own: the numbers of the rest stay those of the same seed without an authority.
        self.draw = draw = Random(f"trust {seed}")
        self.secure = True
        self.doubted = set()
        if self.chaos:
            self.known = [fault for fault in self.known if fault != "revoke"]
            self.known += [fault for fault in TRUST_FAULTS if draw.random() < 0.5]
        self.days = draw.choice([1, 1, 3, 30]) if self.chaos else 700
        self.kill_writes = draw.choice([0, 0, 0.02, 0.1])
        self.enrolled_before = draw.random() < 0.5
        self.date_s = 0.0
        self.agents_date_s: dict[int, float] = defaultdict(float)
        # What agents have on their disks.
        self.identities, self.secrets = {}, {}
        # What is true of the authority, whatever its folder says.
        self.issued, self.serials, self.revoked_to = {}, set(), {}
        self.redeemed, self.withdrawn = set(), set()
        self.revoked_at, self.revoking, self.readmitting = {}, set(), set()
        self.was_restored = False
        self.server = 0.0, 0.0  # when the coordinator's certificate begins and ends

    # Dates

    def date(self):
        return EPOCH + SCALE * self.now + self.date_s

    def agents_date(self, client):
        return EPOCH + SCALE * self.now + self.agents_date_s[client]

    # Life

    def live(self):
        place = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryDirectory(dir=place) as folder:
            self.pki, self.copy = Path(folder) / "pki", Path(folder) / "copy"
            real = authority.write

            def write(path, data):
                self.maybe_killed(lambda: real(path, data))

            patches = (
                mock.patch.object(time, "time", self.date),
                mock.patch.object(secrets, "randbits", self.draw.getrandbits),
                mock.patch.dict(os.environ, XDG_STATE_HOME=f"{folder}/state"),
                mock.patch.object(authority, "write", write),
            )
            chaos, self.chaos = self.chaos, False
            for patch in patches:
                patch.start()
            try:
                identity.make(self.pki, ["coordinator"], self.days)
                for client in range(self.size) if self.enrolled_before else ():
                    self.keep(
                        client, self.note(identity.sign(self.pki, client, REQUEST))
                    )
                self.chaos = chaos
                self.at(0.0, self.look_after)
                self.at(0.0, self.chores)
                super().live()
            finally:
                for patch in patches:
                    patch.stop()

    def maybe_killed(self, write):
        """Write a file, or be killed before or after it."""
        if self.chaos and self.draw.random() < self.kill_writes:
            if self.draw.random() < 0.5:
                write()
            self.fired["authority_killed"] += 1
            self.tell("authority", "killed at a write")
            raise Killed
        write()

    def heal(self):
        self.date_s = 0.0
        self.agents_date_s.clear()
        super().heal()

    # The coordinator

    def start_coordinator(self):
        try:
            self.believe(renew=False)
        except (Killed, UserError) as error:
            self.tell("coordinator", f"does not start: {error}")
            return self.at(1.0, self.start_coordinator)
        super().start_coordinator()
        if self.coordinator and self.coordinator.alive:
            coordinator = self.coordinator
            coordinator.gate = CertificateGate(
                self.pki, Counter(), lambda *_, **__: None
            )
            self.at(POLL_S, self.poll, coordinator)

    def believe(self, renew):
        """Read the coordinator's certificate as a start does; a person renews it if need be."""
        try:
            if renew:
                raise UserError("not believed")
            pem = identity.server_credentials(self.pki).certificate
        except UserError:
            self.fired["server_renewed"] += 1
            identity.renew_server(self.pki)
            pem = identity.server_credentials(self.pki).certificate
        parsed = x509.load_pem_x509_certificate(pem)
        self.server = (
            parsed.not_valid_before_utc.timestamp(),
            parsed.not_valid_after_utc.timestamp(),
        )

    def poll(self, coordinator):
        """Do what `Service._watch` does."""
        if not coordinator.alive:
            return
        machine, links = coordinator.machine, coordinator.links
        expired = [
            number
            for number, link in links.items()
            if link.issued and link.issued.ends <= self.date()
        ]
        if expired:
            self.fired["expired_while_connected"] += len(expired)
            coordinator.perform(machine.expire(expired))
        try:
            coordinator.gate.restored()
            revoked = coordinator.gate.shut_out(
                machine.attending,
                machine.book.open_work.keys(),
                lambda number: links[number].issued.serial,
            )
        except Killed:
            return coordinator.crash()
        if revoked and coordinator.alive:
            coordinator.perform(machine.revoke(revoked))
        if coordinator.alive:
            self.check_links(coordinator)
            self.at(POLL_S, self.poll, coordinator)

    def check_links(self, coordinator):
        for session in coordinator.machine.attending.values():
            issued = coordinator.links[session].issued
            holds(issued.ends > self.date(), "expired, and attends", issued.client)
            long_ago = (
                self.now - self.revoked_at.get(issued.client, self.now) > NOTICED_S
            )
            revoked = issued.serial <= self.revoked_to.get(issued.client, 0)
            holds(not (revoked and long_ago), "revoked, and attends", issued.client)

    def shut_out(self):
        return set()  # `poll` asks the gate

    # Connections

    def connect(self, peer, certificate):
        if self.coordinator is None or self.now < self.parted.get(peer.client, 0):
            return None
        pem = self.certificate_of(peer)
        if pem is None or not self.lets_in(self.coordinator, peer, self.issued[pem]):
            return None
        link = super().connect(peer, certificate)
        if link is not None:
            link.issued = self.issued[pem]
        return link

    def certificate_of(self, peer):
        """Return the certificate that a peer shows; strangers get one that names no client here."""
        if peer.client < self.size or isinstance(peer, Agent):
            held = self.identities.get(peer.client)
            return held and held.certificate
        try:
            return self.note(identity.sign(self.pki, peer.client, REQUEST)).pem
        except (Killed, UserError):
            return None

    def lets_in(self, coordinator, peer, issued):
        begins, ends = self.server
        if not begins <= self.agents_date(peer.client) < ends:
            self.fired["server_not_believed"] += 1
            return False
        if not issued.begins <= self.date() < issued.ends:
            self.fired["expired_at_tls"] += 1
            return False
        revoked = issued.serial <= self.revoked_to.get(issued.client, 0)
        try:
            coordinator.gate.caller(Call(issued.pem)).send(None)
        except StopIteration as end:
            holds(not revoked, "a revoked certificate gets in", issued)
            holds(end.value.client == issued.client, "another client", issued)
            return True
        except TurnedAway as error:
            self.fired["turned_away"] += 1
            half_revoked = issued.client in self.revoking
            holds(revoked or half_revoked, "a good one is turned away", issued, error)
            return False
        raise Broken("the gate waits")

    # Certificates

    def note(self, pem):
        """Write down a certificate that was issued."""
        client, serial = identity.identity_of(pem)
        holds(serial not in self.serials, "a number is used twice", serial)
        self.serials.add(serial)
        parsed = x509.load_pem_x509_certificate(pem)
        begins = parsed.not_valid_before_utc.timestamp()
        self.issued[pem] = Issued(pem, client, serial, begins, identity.expiry(pem))
        return self.issued[pem]

    def keep(self, client, issued):
        """Store a certificate on a client's disk, as `fedlearn.clients.agent.identity.store`."""
        holds(issued.client == client, "another client's certificate", issued)
        self.identities[client] = agents.Identity(
            client, b"", issued.pem, b"", self.agents_date(client), issued.ends
        )

    def renews(self, coordinator, link, frame):
        serial = link.issued.serial
        try:
            pem = tokens.renew(
                self.pki, link.issued.client, serial, frame.renewal.request
            )
        except Killed:
            coordinator.crash()
            return True
        except FedlearnError as error:
            self.fired["renewal_refused"] += 1
            right = frame.renewal.request == REQUEST and link.issued.ends > self.date()
            revoked = serial <= self.revoked_to.get(link.issued.client, 0)
            half_revoked = link.issued.client in self.revoking
            holds(not right or revoked or half_revoked, "not renewed", error)
            return True
        revoked = serial <= self.revoked_to.get(link.issued.client, 0)
        holds(not revoked, "a revoked certificate is renewed", link.issued)
        issued = self.note(pem)
        # Its number in its place: a signature's length is chance, and so would be its way.
        name = str(issued.serial).rjust(700).encode()
        reply = frames.certificate(name, int(issued.ends))
        if link.number in coordinator.links:
            coordinator.perform([SendToAgent(link.number, reply)])
        return True

    def certified(self, agent, action):
        serial = int(action.certificate)
        issued = next(one for one in self.issued.values() if one.serial == serial)
        self.fired["renewed"] += 1
        self.keep(agent.client, issued)

    # Agents

    def chores(self):
        """Have every agent that runs enroll, or renew its certificate, where it is time to."""
        for agent in list(self.agents):
            client = agent.client
            identity = self.identities.get(client)
            if client in self.secrets:
                self.enroll(agent)
            elif (
                identity
                and agent.link
                and agent.machine._welcomed
                and agents.due(identity, self.agents_date(client))
            ):
                agent.send(pb.AgentFrame(renewal=pb.Renewal(request=REQUEST)))
        self.at(CHORES_S, self.chores)

    def enroll(self, agent):
        client = agent.client
        begins, ends = self.server
        if self.coordinator is None or self.now < self.parted.get(client, 0):
            return
        if not begins <= self.agents_date(client) < ends:
            self.fired["server_not_believed"] += 1
            return
        secret = self.secrets[client]
        try:
            reply = enrollment.enroll(self.pki, secret, REQUEST)
        except Killed:
            return self.coordinator.crash()
        except IdentityError as error:
            self.fired[f"token {error.reason}"] += 1
            self.tell(f"agent {client}", f"not enrolled: {error}")
            del self.secrets[client]
            return
        holds(secret not in self.redeemed, "a token is used twice", client)
        holds(secret not in self.withdrawn, "a withdrawn token is used", client)
        self.redeemed.add(secret)
        issued = self.note(reply.certificate)
        if self.chaos and self.draw.random() < 0.2:
            self.fired["reply_lost"] += 1
            return
        del self.secrets[client]
        self.keep(client, issued)
        self.fired["enrolled"] += 1
        self.tell(f"agent {client}", "enrolled")
        if client in self.readmitting:
            self.readmitting.discard(client)
            self.refused.discard(client)
            self.fired["readmitted"] += 1
        if agent.left:
            agent.left = False
            agent.again(0.1)

    # A person

    def look_after(self):
        """Give tokens to those who need them, and finish what was broken off."""
        try:
            for client in sorted(self.revoking):
                self.revoke(client)
            for client in range(self.size):
                if client in self.refused and self.chaos and self.draw.random() < 0.1:
                    self.readmitting.add(client)
                if self.needs_token(client):
                    word = tokens.new_token(self.pki, client)
                    padded = word + "=" * (-len(word) % 4)
                    values = json.loads(base64.urlsafe_b64decode(padded))
                    self.secrets[client] = values["secret"]
            if self.coordinator:
                begins, ends = self.server
                # Expired, or made while the date was ahead: nobody believes it.
                if not begins <= self.date() < ends:
                    self.believe(renew=True)
                    self.coordinator.crash(0.5)
        except Killed:
            self.tell("person", "a command was killed")
        self.at(PERSON_S, self.look_after)

    def needs_token(self, client):
        if client in self.secrets:
            return False
        if client in self.refused and client not in self.readmitting:
            return False
        identity = self.identities.get(client)
        if identity is None:
            return True
        issued = self.issued[identity.certificate]
        revoked = issued.serial <= self.revoked_to.get(client, 0)
        return revoked or not issued.begins <= self.date() < issued.ends

    def revoke(self, client):
        """Revoke a client; the command of a person, which may be killed."""
        serials = [one.serial for one in self.issued.values() if one.client == client]
        self.revoking.add(client)
        self.doubted.add(client)
        try:
            tokens.revoke(self.pki, client, self.was_restored)
        except UserError as error:
            if not serials:
                return self.revoking.discard(client)
            # The date was ahead by years, so the list has forgotten it; the error says how.
            holds("--anyway" in str(error), "no way to revoke", client, error)
            self.fired["revoked_anyway"] += 1
            tokens.revoke(self.pki, client, anyway=True)
        self.revoking.discard(client)
        self.revoked_to[client] = max(serials, default=0)
        self.revoked_at[client] = self.now
        if client in self.secrets:
            self.withdrawn.add(self.secrets[client])
        self.readmitting.discard(client)
        self.refused.add(client)

    def do_revoke(self):
        client = self.random.randrange(self.size)
        if client in self.refused:
            return False
        try:
            self.revoke(client)
        except Killed:
            return False

    # Dates and copies

    def do_coordinator_date(self):
        self.date_s += self.draw.choice(JUMPS_S) * self.draw.choice([-1, 1])
        self.date_s = max(-3 * 365 * DAY_S, min(3 * 365 * DAY_S, self.date_s))

    def do_agent_date(self):
        client = self.draw.randrange(self.size)
        self.agents_date_s[client] += self.draw.choice(JUMPS_S) * self.draw.choice(
            [-1, 1]
        )

    def do_right_dates(self):
        self.date_s = 0.0
        self.agents_date_s.clear()

    def do_backup(self):
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.pki, self.copy)

    def do_restore(self):
        if not self.copy.exists():
            return False
        self.was_restored = True
        shutil.rmtree(self.pki)
        shutil.copytree(self.copy, self.pki)
