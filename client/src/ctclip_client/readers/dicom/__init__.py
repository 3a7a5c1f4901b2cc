"""DICOM series: `header` reads files, `stack` orders slices, `series` chooses, `pixels` decodes."""

from ctclip_client.readers.dicom.header import is_dicom
from ctclip_client.readers.dicom.reader import Dicom, look

__all__ = ["Dicom", "is_dicom", "look"]
