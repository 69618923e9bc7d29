"""What a device decides of a package before it runs it: by whom, for whom, and how new.

The signature says who made it, and the manifest what it is. A coordinator may withhold a
package, and cannot make a device take one that is older than its floor. Freshness is by a
counter and an expiry, after TUF (Samuel et al., "Survivable Key Compromise in Software Update
Systems", CCS 2010), without its four files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fedlearn.errors import PackageError, UserError
from fedlearn.package import keys, signature
from fedlearn.package.content import Package
from fedlearn.package.manifest import Manifest
from fedlearn.text import first_few

RUNTIME = "onnxruntime"


@dataclass(frozen=True)
class Terms:
    """What a device's owner takes.

    keys: fingerprint → PEM of the release keys. names: of packages; empty: any. floor: the
    least counter. device: its class, such as "jetson"; "": of none. opset: the newest that
    the runtime reads; None: the runtime will say. now: in UTC; None: the board has no clock,
    and nothing expires on it. functions: whether packages may have steps before and after
    the model.
    """

    keys: Mapping[str, bytes]
    names: tuple[str, ...] = ()
    floor: int = 0
    device: str = ""
    runtime: str = RUNTIME
    opset: int | None = None
    now: datetime | None = None
    functions: bool = True


@dataclass(frozen=True)
class Acceptance:
    """What a device keeps once it runs the package for good.

    floor: the least counter from then on. keys: the keys that it accepts from then on.
    signers: the fingerprints of those that signed.
    """

    signers: tuple[str, ...]
    floor: int
    keys: Mapping[str, bytes] = field(default_factory=dict)


def accept(package: Package, terms: Terms) -> Acceptance:
    """Return what follows when a device takes a package.

    Raises PackageError with the name of what it lacks: "unsigned", "key", "signature",
    "name", "functions", "target", "counter" or "expired".
    """
    signers = signature.verify(package, terms.keys)
    manifest = package.manifest
    if terms.names and manifest.name not in terms.names:
        raise PackageError(
            "name", f"the package is '{manifest.name}', not {first_few(terms.names)}"
        )
    _check_consent(manifest, terms)
    _check_target(manifest, terms)
    floor = _floor(manifest, terms.floor)
    check_expiry(manifest, terms.now)
    return Acceptance(signers, floor, _next_keys(package, terms, signers))


def _check_consent(manifest: Manifest, terms: Terms) -> None:
    """Refuse functions where the owner takes none. Raises PackageError, "functions"."""
    if manifest.functions and not terms.functions:
        names = first_few([f"'{function.name}'" for function in manifest.functions])
        raise PackageError(
            "functions",
            f"the package has the functions {names}, and this device's owner takes none; "
            "functions = yes in [releases] of its settings lets them in",
        )


def check_expiry(manifest: Manifest, now: datetime | None) -> None:
    """Refuse a package that is out of date; now: in UTC, None: without a clock.

    Raises PackageError, "expired".
    """
    expiry = manifest.expiry
    if expiry is not None and now is not None and now >= expiry:
        raise PackageError("expired", f"the package expired at {manifest.expires}")


def _check_target(manifest: Manifest, terms: Terms) -> None:
    """Refuse a package that is for other devices. Raises PackageError, "target"."""
    for target in manifest.targets:
        has_opset = terms.opset is None or target.opset <= terms.opset
        is_meant = not target.devices or terms.device in target.devices
        if target.runtime == terms.runtime and has_opset and is_meant:
            return
    texts = []
    for target in manifest.targets:
        devices = "/".join(target.devices) or "any device"
        texts.append(f"{target.runtime} with opset {target.opset} on {devices}")
    device = terms.device or "a device of no class"
    raise PackageError(
        "target", f"the package is for {first_few(texts)}; this is {device}"
    )


def _floor(manifest: Manifest, floor: int) -> int:
    """Return a device's next floor. Raises PackageError, "counter", below the present one."""
    if manifest.rollback is None:
        if manifest.counter >= floor:
            return manifest.counter
        raise PackageError(
            "counter",
            f"the package has counter {manifest.counter}, below this device's {floor}",
        )
    # It takes the place of releases up to its limit. Those cannot come back afterwards, and
    # neither can this rollback once a newer release is there.
    if manifest.rollback >= floor:
        return manifest.rollback + 1
    raise PackageError(
        "counter",
        f"the package takes back releases up to {manifest.rollback}, and this device's "
        f"floor is {floor}",
    )


def _next_keys(
    package: Package, terms: Terms, signers: tuple[str, ...]
) -> Mapping[str, bytes]:
    """Return the keys that a device accepts after a package.

    A key that is new has to have signed too: who hands over proves that it is there.
    """
    if package.manifest.keys is None:
        return terms.keys
    successors = {}
    for text in package.manifest.keys:
        try:
            pem = keys.public_key(text.encode(), "manifest.keys")
        except UserError as error:
            raise PackageError("key", str(error)) from None
        successors[keys.fingerprint(pem)] = pem
    absent = [name for name in successors if name not in terms.keys]
    if absent:
        # An accepted key has signed already; the new ones are looked up among all.
        signers = signature.verify(package, {**terms.keys, **successors})
    unproven = [name for name in absent if name not in signers]
    if unproven:
        raise PackageError(
            "key",
            f"the package hands over to a key that has not signed it: {unproven[0]}",
        )
    return successors
