"""Which row of a table is about which scan, and which scans are of one patient."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from ctclip_client.errors import InvalidInput
from ctclip_client.readers import SUFFIXES

_FORMATS = "|".join(sorted({suffix.split(".")[1] for suffix in (*SUFFIXES, ".dcm")}))
_ENDINGS = re.compile(rf"(\.({_FORMATS}))?(\.(gz|bz2|xz|zip))?$", re.I)
_CT_RATE = re.compile(r"([A-Za-z]+_\d+)_([a-z]+)_(\d+)")
_SAME_NAMES = (
    "Names of files must be the same, and the folder beside them where both tell it. A name that "
    "--hash-names has replaced is the same as one only that it has replaced, too."
)


@dataclass(frozen=True)
class Reconstruction:
    """A name of CT-RATE: `valid_1_a_2.nii.gz` is the second reconstruction of
    the scan valid_1_a, of patient valid_1."""

    patient: str
    scan: str


def reconstruction(name: str) -> Reconstruction | None:
    """What a file's name says, if it is one of CT-RATE's (split_PATIENT_SCAN_RECONSTRUCTION)."""
    found = _CT_RATE.fullmatch(stem(name))
    if found is None:
        return None
    patient, scan, _ = found.groups()
    return Reconstruction(patient, f"{patient}_{scan}")


def stem(name: str) -> str:
    """The last part of a path, without what says the format."""
    return _ENDINGS.sub("", _parts(name)[-1])


def parts_from_end(name: str) -> tuple[str, ...]:
    """The stem of a path, then its folders, the innermost first."""
    return (stem(name), *_parts(name)[-2::-1])


@dataclass(frozen=True)
class Joined:
    """Two files side by side. scans: places of those that have a row, in their order; rows: for
    each of these the place of its row. scans_alone, rows_alone: names on one side only."""

    scans: tuple[int, ...]
    rows: tuple[int, ...]
    scans_alone: tuple[str, ...]
    rows_alone: tuple[str, ...]


def join_names(
    scans: Sequence[str], rows: Sequence[str], scans_of: Path, rows_of: str, *,
    remedy: str = _SAME_NAMES,
) -> Joined:  # fmt: skip
    """Join two files by the names in them, as `match_names` compares these.

    Args:
        scans_of, rows_of: where the names stand, for errors.

    Raises:
        InvalidInput: no name is on both sides, or one may mean two.
    """
    try:
        matched = match_names(scans, rows)
    except InvalidInput as error:
        raise InvalidInput(f"{rows_of}, beside {scans_of}: {error.cause}", error.remedy) from error
    places = tuple(place for place, row in enumerate(matched) if row is not None)
    if not places:
        raise InvalidInput(
            f"{rows_of} names none of the {len(scans):,} scans of {scans_of}: it has '{rows[0]}', "
            f"they are '{scans[0]}' and the like.",
            remedy,
        )
    taken = tuple(row for row in matched if row is not None)
    known = set(taken)
    return Joined(
        places,
        taken,
        tuple(name for name, row in zip(scans, matched, strict=True) if row is None),
        tuple(name for row, name in enumerate(rows) if row not in known),
    )


def match_names(scans: Sequence[str], rows: Sequence[str]) -> list[int | None]:
    """For each scan the row about it, None where there is none.

    Files are known by their names, with or without the ending of the format, and by the folder that
    they lie in, where both sides tell it; where several have one name, by all folders that both
    sides tell.

    Args:
        scans: paths, as predictions have them.
        rows: names or paths, as labels have them.

    Raises:
        InvalidInput: a row may be about several scans, or a scan may have several rows.
    """
    by_stem = defaultdict(list)
    for index, row in enumerate(rows):
        by_stem[stem(row)].append(index)
    of_one_name = defaultdict(list)
    for index, scan in enumerate(scans):
        of_one_name[stem(scan)].append(index)
    matched: list[int | None] = [None] * len(scans)
    for name, places in of_one_name.items():
        candidates = by_stem.get(name, [])
        # A name that is there once on both sides needs no more than its own folder: data moves.
        parts = 2 if len(places) == len(candidates) == 1 else None
        taken: dict[int, int] = {}
        for place in places:
            row_index = _row_of(scans[place], rows, candidates, parts)
            if row_index is None:
                continue
            if row_index in taken:
                first = scans[taken[row_index]]
                raise _ambiguous(rows[row_index], first, scans[place])
            taken[row_index] = place
            matched[place] = row_index
    return matched


def _row_of(
    scan: str, rows: Sequence[str], candidates: Sequence[int], parts: int | None
) -> int | None:
    """The row of the same path, or else that whose last parts are the same, of those whose name
    is. parts: how many are compared at most."""
    same = [index for index in candidates if rows[index] == scan]
    similar = [index for index in candidates if _agree(rows[index], scan, parts)]
    found = same or similar
    if len(found) > 1:
        raise _ambiguous(scan, rows[found[0]], rows[found[1]])
    return found[0] if found else None


def _agree(one: str, other: str, parts: int | None) -> bool:
    first, second = parts_from_end(one), parts_from_end(other)
    length = min(len(first), len(second), parts or len(first))
    return first[:length] == second[:length]


def _parts(name: str) -> tuple[str, ...]:
    path = PureWindowsPath(name) if "\\" in name else PurePosixPath(name)
    return tuple(part for part in path.parts if part != path.anchor) or (name,)


def _ambiguous(name: str, first: str, second: str) -> InvalidInput:
    if first == second:
        return InvalidInput(
            f"'{name}' may be about two scans or rows of one name: '{first}' is there twice.",
            "Leave one of them out; of a folder with several series, take one: --series UID.",
        )
    return InvalidInput(
        f"'{name}' may be about '{first}' or '{second}'.",
        "Name scans by as much of the path as tells them apart, in both files.",
    )


@dataclass(frozen=True)
class Patients:
    """ids: one a scan. told_by: what told them, in words. alone: how many scans no name tells the
    patient of, each of which counts as a patient of its own. by_column: of the labels, and not by
    names."""

    ids: tuple[str, ...]
    told_by: str
    alone: int = 0
    by_column: bool = False


def patients_by_name(scans: Sequence[str]) -> Patients:
    """Patients from names, where these are CT-RATE's."""
    known = [reconstruction(scan) for scan in scans]
    ids = tuple(
        scan if found is None else found.patient for scan, found in zip(scans, known, strict=True)
    )
    alone = known.count(None)
    told_by = "names as CT-RATE's" if alone < len(scans) else "nothing: each scan is a patient"
    return Patients(ids, told_by, alone)
