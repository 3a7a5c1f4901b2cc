"""DICOM series: `header` reads files, `stack` orders slices, `series` chooses, `pixels` decodes,
`apart` in a process of its own."""

from ctclip_client.readers.dicom.file import is_dicom
from ctclip_client.readers.dicom.reader import Dicom, look, of_study

__all__ = ["Dicom", "is_dicom", "look", "of_study"]
