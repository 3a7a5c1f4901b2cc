"""From a checkpoint to a repository that Triton serves."""

from ctclip_client.system.telemetry import forbid_telemetry

forbid_telemetry()
