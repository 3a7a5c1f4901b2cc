"""Certificates for both sides of a TLS connection; of this test run only."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from .deploy.support import need


@dataclass(frozen=True)
class Certificates:
    """One authority, and what it signed: `{ca,server,client}.{crt,key}` in a folder."""

    folder: Path

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        """Fill an empty folder."""

        def openssl(*arguments: str) -> None:
            command = [need("openssl"), *arguments]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)

        new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl(
            *new, "-days", "2", "-x509", "-subj", "/CN=test authority",
            "-keyout", "ca.key", "-out", "ca.crt",
        )  # fmt: skip
        (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        for side in ("server", "client"):
            openssl(*new, "-subj", f"/CN={side}", "-keyout", f"{side}.key", "-out", f"{side}.csr")
            openssl(
                *("x509", "-req", "-in", f"{side}.csr", "-out", f"{side}.crt", "-days", "2"),
                *("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"),
            )
        return cls(folder)
