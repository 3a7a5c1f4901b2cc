"""That thresholds know the scans that they were fitted on, by their names' digests."""

from __future__ import annotations

import pytest

from ctclip_analysis.evaluate.same_scans import digests_of, shared

NAMES = [f"valid_{at}_a_1.nii.gz" for at in range(3)]
FOLDERS = [f"p{at}/ct.nii.gz" for at in range(3)]


@pytest.mark.parametrize(
    ("fitted_on", "judged", "count"),
    [
        (NAMES, NAMES, 3),
        (NAMES, [f"/data/{name}" for name in NAMES], 3),
        (NAMES, ["valid_1_a_2.nii.gz", "valid_1_a", "valid_2_b_1"], 1),
        (FOLDERS, FOLDERS, 3),
        (FOLDERS, [f"q{at}/ct.nii.gz" for at in range(3)], 0),
        (FOLDERS, [*FOLDERS[1:], "q1/ct.nii.gz"], 2),
        (FOLDERS, [f"/data/{name}" for name in FOLDERS], 3),
        (FOLDERS, ["ct.nii.gz"], 0),
        (["ct.nii.gz"], FOLDERS, 0),
        (["p0/a.nii", "p1/b.nii"], ["q0/a.nii", "q1/b.nii"], 0),
        (["p0/a.nii", "p1/b.nii"], ["a", "/data/p1/b.nii", "c"], 2),
        (["p0/1/ct", "p1/1/ct"], ["p0/1/ct", "p2/1/ct"], 1),
        (["p0/1/ct", "p1/1/ct"], ["q0/1/ct"], 0),
        (["C:\\p0\\ct.nii", "C:\\p1\\ct.nii"], ["p0/ct.nii", "p2/ct.nii"], 1),
        (["\udce4/ct", "p/ct"], ["\udce4/ct", "q/ct"], 1),
    ],
)
def test_scans_are_the_same_by_what_tells_them_apart(
    fitted_on: list[str], judged: list[str], count: int
) -> None:
    one, other = digests_of(fitted_on), digests_of(judged)
    assert (shared(one, other), shared(other, one)) == (count, count)
    assert not any(name.split("/")[0] in text for name in fitted_on for text in one)


def test_what_older_files_hold_still_counts() -> None:
    """A digest of the name alone, which does not tell many of one name apart."""
    assert shared(digests_of(["p0/a.nii", "p1/b.nii"]), digests_of(["a", "b"])) == 2
    assert shared(digests_of(FOLDERS), digests_of(["ct"])) == 0
