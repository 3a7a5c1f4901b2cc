"""How commands reach a server: the same options, variables and files for every one of them."""

from __future__ import annotations

import argparse
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ctclip_client.cli.flag_values import flag, seconds
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.system.terminal import command_line

if TYPE_CHECKING:
    from ctclip_client.transport.connection import Connection
    from ctclip_client.transport.endpoint import Tls

URL_VARIABLE = "CTCLIP_URL"
"""For commands that only ask. Never for load tests and promotions: they must not go, because of a
variable of the shell, to a server with patients behind it."""

FILE_VARIABLES = {
    "headers_file": "CTCLIP_HEADERS_FILE",
    "tls_ca": "CTCLIP_TLS_CA",
    "tls_cert": "CTCLIP_TLS_CERT",
    "tls_key": "CTCLIP_TLS_KEY",
}
"""Options that name a file -> the variable that counts where the option is not given."""
_OPTIONS = (*FILE_VARIABLES, "tls", "header")


def add_connection_options(
    parser: argparse.ArgumentParser,
    url_help: str,
    *,
    url_required: bool = False,
    timeout_s: float = 60.0,
    timeout_help: str = "for each scan",
) -> None:
    """Add --url, --timeout-s and what a server behind TLS or restrictions asks for."""
    group = parser.add_argument_group("connection")
    group.add_argument("--url", required=url_required, metavar="HOST:PORT", help=url_help)
    group.add_argument(
        "--timeout-s", type=seconds, default=timeout_s, metavar="S", help=timeout_help
    )
    group.add_argument(
        "--tls", action="store_true", help="the server's gRPC service uses TLS; the three below "
        "imply it",
    )  # fmt: skip
    files = {
        "tls_ca": "PEM file of who may sign the server's certificate (the usual authorities where "
        "it is not given)",
        "tls_cert": "PEM file of this client's certificate, where the server asks for one",
        "tls_key": "PEM file of its private key",
    }
    for name, text in files.items():
        group.add_argument(
            flag(name), type=Path, metavar="FILE", help=f"{text}; or {FILE_VARIABLES[name]}"
        )
    group.add_argument(
        "--header", type=_header, action="append", metavar="KEY=VALUE",
        help="sent with every call, for instance triton-grpc-protocol-inference=WORD; may be "
        "repeated. Other users of this machine can see it in the list of processes",
    )  # fmt: skip
    group.add_argument(
        "--headers-file", type=Path, metavar="FILE",
        help="the same from a file, one 'key: value' a line; or "
        f"{FILE_VARIABLES['headers_file']}",
    )  # fmt: skip
    # Spellings of earlier versions.
    for old, name in (("--root-certificates", "tls_ca"), ("--headers", "headers_file")):
        group.add_argument(old, type=Path, dest=name, help=argparse.SUPPRESS)


def read_connection(args: argparse.Namespace, url: str, url_from: str = "--url") -> Connection:
    """What the options and the environment say of a server at `url`; nothing is sent yet.

    url_from: the option or variable that named it.

    Raises:
        InvalidInput: an option is wrong, or a certificate lacks its key.
        Unreadable: a file cannot be read as what it should be.
    """
    from ctclip_client.transport.connection import Connection
    from ctclip_client.transport.endpoint import Endpoint

    Endpoint.parse(url, url_from)
    file = _file(args, "headers_file")
    headers = {} if file is None else _read_headers(file)
    return Connection(url, args.timeout_s, _tls(args), headers | dict(args.header or ()))


def read_optional_connection(args: argparse.Namespace) -> Connection | None:
    """The same for commands that start a server of their own where no --url is given.

    Raises: as above; InvalidInput also for options that would have no effect.
    """
    if args.url is not None:
        return read_connection(args, args.url)
    given = given_options(args)
    if given:
        raise InvalidInput(
            f"{given[0]} is for a server that runs already, and no --url is given.",
            "Add --url HOST:PORT, or leave it out.",
        )
    return None


def url_of_environment() -> str | None:
    """What CTCLIP_URL says; None where it is absent or empty."""
    return os.environ.get(URL_VARIABLE) or None


def given_options(args: argparse.Namespace) -> list[str]:
    """The flags, besides --url and --timeout-s, that stand on the command line."""
    return [flag(name) for name in _OPTIONS if getattr(args, name)]


def connection_files(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """What each file of the connection is, in words, and the file."""
    for name in FILE_VARIABLES:
        if (file := _file(args, name)) is not None:
            yield f"the file of {file.named_by}", file.path


def connection_flags(args: argparse.Namespace) -> str:
    """How a command line reaches the same server again, quoted for a shell.

    With the files that the environment named, and without the values of headers, which may be
    secrets: `…` stands for them.
    """
    parts = ["--url", args.url, "--timeout-s", f"{args.timeout_s:g}"]
    if args.tls:
        parts.append("--tls")
    for name in FILE_VARIABLES:
        file = _file(args, name)
        if file is not None:
            parts += [flag(name), str(file.path)]
    for key, _ in args.header or ():
        parts += ["--header", f"{key}=…"]
    return command_line(*parts)


def _header(text: str) -> tuple[str, str]:
    pair = _pair(*text.partition("="))
    if pair is None:
        # Not what came: a mistyped secret would end up in a log.
        raise argparse.ArgumentTypeError(
            "expected KEY=VALUE, the key of letters, digits, '-', '_' and '.', both in ASCII"
        )
    return pair


def _pair(key: str, separator: str, value: str) -> tuple[str, str] | None:
    from ctclip_client.transport.endpoint import checked_headers

    try:
        return checked_headers({key: value})[0] if separator else None
    except InvalidInput:
        return None


class _File(NamedTuple):
    """named_by: the option or variable that it came from."""

    path: Path
    named_by: str


def _file(args: argparse.Namespace, name: str) -> _File | None:
    given: Path | None = getattr(args, name)
    if given is not None:
        return _File(given, flag(name))
    variable = FILE_VARIABLES[name]
    value = os.environ.get(variable)
    return _File(Path(value), variable) if value else None


def _read(file: _File) -> bytes:
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise Unreadable(
            f"{file.named_by}: {file.path}: {error.strerror or error}.", "Name a readable file."
        ) from error


def _read_headers(file: _File) -> dict[str, str]:
    """'key: value' lines. Values may be secrets: no message shows them."""
    headers: dict[str, str] = {}
    # Bytes that are no UTF-8 are in no header, so their line is refused like any other.
    for number, line in enumerate(_read(file).decode("utf-8", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        pair = _pair(*(part.strip() for part in line.partition(":")))
        if pair is None:
            raise InvalidInput(
                f"{file.named_by}: line {number} of {file.path} is no 'key: value' that gRPC can "
                "carry.",
                "For instance triton-grpc-protocol-admin-key: SECRET",
            )
        headers.update([pair])
    return headers


def _tls(args: argparse.Namespace) -> Tls | None:
    ca, certificate, key = (_file(args, name) for name in ("tls_ca", "tls_cert", "tls_key"))
    for given, other, missing in ((certificate, key, "tls_key"), (key, certificate, "tls_cert")):
        if given is not None and other is None:
            raise InvalidInput(
                f"{given.named_by}: got {given.path}, and no {flag(missing)}.",
                "A client's certificate and its private key belong together: give both, here or in "
                f"{FILE_VARIABLES['tls_cert']} and {FILE_VARIABLES['tls_key']}.",
            )
    if ca is None and certificate is None and not args.tls:
        return None
    from ctclip_client.transport.endpoint import Tls

    for file in (ca, certificate, key):
        if file is not None:
            _read(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Which algorithms are good enough is for the two sides to agree on.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    if ca is not None:
        try:
            context.load_verify_locations(ca.path)
        except ssl.SSLError as error:
            raise Unreadable(
                f"{ca.named_by}: {ca.path}: got something else than a certificate.",
                "Name a PEM file of certificates (-----BEGIN CERTIFICATE-----).",
            ) from error
    if certificate is not None and key is not None:
        try:
            # Any password: otherwise OpenSSL would ask for it, and gRPC has no place for one.
            context.load_cert_chain(certificate.path, key.path, "none")
        except ssl.SSLError as error:
            raise Unreadable(
                f"{certificate.named_by}, {key.named_by}: {certificate.path} and {key.path} are no "
                "certificate and its private key.",
                "Name two PEM files that belong together; the key must not be encrypted.",
            ) from error
    return Tls(*(None if file is None else file.path for file in (ca, key, certificate)))
