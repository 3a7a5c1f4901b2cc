"""From a target to its report."""

from __future__ import annotations

from ctclip_client.doctor.ct import inspect as inspect_ct
from ctclip_client.doctor.inspectors import DoctorOptions, inspector
from ctclip_client.doctor.report import Report
from ctclip_client.doctor.repository import inspect as inspect_repository
from ctclip_client.doctor.server import inspect as inspect_server
from ctclip_client.doctor.subject import Subject


def examine(subject: Subject, options: DoctorOptions) -> Report:
    """Run every check of the subject's kind.

    Raises:
        InvalidInput: it is not what it looked like, or a distribution is missing.
        ServiceError: no server answers there.
    """
    if subject.kind == "checkpoint":
        checks = inspector("checkpoint").inspect(subject.path, options)
    elif subject.kind == "repository":
        checks = inspect_repository(subject, options)
    elif subject.kind == "ct":
        checks = inspect_ct(subject, options)
    else:
        checks = inspect_server(subject, options)
    return Report(subject.kind, subject.target, subject.recognised_as, tuple(checks))
