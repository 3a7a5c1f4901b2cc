"""Signals that end a command, and what they find when it starts."""

from __future__ import annotations

import signal

import pytest

from ctclip_client.system.signals import termination_interrupts


def test_ctrl_c_interrupts_where_a_script_started_the_command_with_an_ampersand() -> None:
    """A shell without job control starts such commands with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), termination_interrupts():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_hang_up_that_somebody_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with termination_interrupts():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
