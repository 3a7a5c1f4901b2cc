"""Parity, measurements and the demo."""

from ctclip_client.system.telemetry import forbid_telemetry

forbid_telemetry()
