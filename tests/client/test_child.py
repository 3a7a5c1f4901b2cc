"""A child process ends with its parent, however that one ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from ctclip_client.system.child import child

# Says when it can hear, and what it heard.
LISTENER = """
import signal, sys, time
def heard(number, _):
    print(signal.Signals(number).name, flush=True)
    sys.exit(3)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, heard)
print("listening", flush=True)
time.sleep(60)
"""
PARENT = """
import sys
from ctclip_client.system.child import child
from ctclip_client.system.signals import termination_interrupts

with termination_interrupts(), child([sys.executable, "-c", sys.argv[1]], grace_s=30) as process:
    process.wait()
"""
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + LISTENER.replace(
    "signal.SIGTERM, signal.SIGINT", "signal.SIGINT,"
)


def test_it_is_waited_for_and_leaves_its_exit_code() -> None:
    with child([sys.executable, "-c", "raise SystemExit(7)"]) as process:
        pass
    assert process.returncode == 7


@pytest.mark.parametrize(
    "ending",
    [signal.SIGINT, signal.SIGTERM, signal.SIGKILL],
    ids=str,
)
def test_it_is_told_once_and_by_its_parent_alone(ending: signal.Signals) -> None:
    """Ctrl-C tells a whole process group; the death of the parent, nobody but by the kernel."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, LISTENER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, start_new_session=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stdout.readline() == "listening\n"
        os.killpg(parent.pid, ending)
        assert parent.stdout.read() == "SIGTERM\n"  # the end of it: the child has gone


def test_what_it_never_read_does_not_hide_why_it_was_ended() -> None:
    def talk() -> None:
        with child([sys.executable, "-c", ""], stdin=subprocess.PIPE) as process:
            process.wait()
            assert process.stdin is not None
            process.stdin.write("waits in the buffer")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        talk()


@pytest.mark.parametrize(("program", "grace_s"), [(LISTENER, 0.0), (DEAF, 0.1)])
def test_without_grace_or_after_it_a_child_is_killed(program: str, grace_s: float) -> None:
    with (
        contextlib.suppress(KeyboardInterrupt),
        child([sys.executable, "-c", program], grace_s=grace_s, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL
