"""JSON objects whose keys are there once."""

from __future__ import annotations

from collections import Counter


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """For `object_pairs_hook` of `json.loads`: which of several values is meant is unknown.

    Raises: ValueError naming the key and its values.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        key, count = Counter(key for key, _ in pairs).most_common(1)[0]
        values = ", ".join(repr(value) for name, value in pairs if name == key)
        raise ValueError(f"got {key!r} {count} times ({values}), expected it once")
    return content
