"""What `ctclip doctor` finds out about a CT file, a repository, a checkpoint or a server.

`subject` says what a target is, one module each examines it, `report` holds what came of it.
Checkpoints and the insides of ONNX files are examined by `ctclip-export`, through the entry points
of `inspectors`; everything else needs this distribution only.
"""

from ctclip_client.doctor.report import FORMAT, Check, Report, Verdict

__all__ = ["FORMAT", "Check", "Report", "Verdict"]
