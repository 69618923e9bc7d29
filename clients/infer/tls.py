"""The server's end of TLS, for those who ask from other machines."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from fedlearn.errors import UserError


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. ca: of the authority whose clients may ask; None: anybody may."""

    certificate: Path
    key: Path
    ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return what asyncio listens with; raises UserError for files that are none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--cert {self.certificate}, --key {self.key}: no certificate with its "
                f"key ({error})"
            ) from None
        if self.ca is None:
            return context
        try:
            context.load_verify_locations(self.ca)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--ca {self.ca}: no certificate of an authority ({error})"
            ) from None
        # Who has none of its certificates is not answered.
        context.verify_mode = ssl.CERT_REQUIRED
        return context
