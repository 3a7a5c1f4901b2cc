"""What the texts of a request have to be, for every model that takes some."""

from collections.abc import Sequence


def decode_texts(field: str, items: Sequence[bytes | str], max_texts: int) -> list[str]:
    """The texts of a BYTES tensor.

    Raises:
        ValueError: none or too many of them, or bytes that are not UTF-8.
    """
    if not 1 <= len(items) <= max_texts:
        raise ValueError(f"{field}: got {len(items) or 'no'} texts, expected 1 to {max_texts}")
    return [_decode(field, index, item) for index, item in enumerate(items)]


def _decode(field: str, index: int, item: bytes | str) -> str:
    if isinstance(item, str):
        return item
    try:
        return item.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"0x{item[error.start]:02x} at byte {error.start}"
        raise ValueError(f"{field}: item {index} has {got}, expected UTF-8") from error
