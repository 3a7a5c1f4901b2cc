"""The variables of docker-compose.yml, from where docker compose takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ctclip_client.errors import InvalidInput

GPU, GRPC_PORT, USER, ADMIN_HEADER = NAMES = (
    "CTCLIP_GPU", "CTCLIP_GRPC_PORT", "CTCLIP_USER", "CTCLIP_ADMIN_HEADER",
)  # fmt: skip
"""Those that matter on this side. .env.example explains them."""
_LINE = re.compile(r"\s*(?:export\s+)?(\w+)\s*=\s*(.*)")
_VALUE = re.compile(
    r"""'(?P<literal>[^']*)'\s*(\#.*)? | "(?P<quoted>[^"$\\]*)"\s*(\#.*)?
    | (?P<plain>(?!['"])[^$]*?)(\s+\#.*)?\s*""",
    re.VERBOSE,
)


def compose_variables(
    folder: Path, environment: Mapping[str, str], names: Sequence[str] = NAMES
) -> dict[str, str]:
    """Those of `names` that are set: in `.env`, or in the environment, which wins.

    folder: where docker compose is called; `.env` lies beside docker-compose.yml, there or above.
    Raises: InvalidInput, without the value, for a line that only Compose understands.
    """
    found = {name: environment[name] for name in names if name in environment}
    wanted = set(names) - set(found)
    above = (each for each in (folder, *folder.parents) if (each / "docker-compose.yml").is_file())
    path = next(above, folder) / ".env"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return found
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: {error}.", "Fix it, or move it away.") from error
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or match[1] not in wanted:
            continue
        value = _VALUE.fullmatch(match[2])
        if value is None:
            raise InvalidInput(
                f"{path.name}, line {number}: {match[1]} has a quote, a $ or a \\ whose meaning "
                "only Compose knows.",
                "Write the value out, in single quotes, or set the variable in the environment.",
            )
        found[match[1]] = next(
            part for part in value.group("literal", "quoted", "plain") if part is not None
        )
    return found
