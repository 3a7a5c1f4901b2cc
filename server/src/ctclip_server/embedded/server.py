"""The real Triton of the nvidia-pytriton wheel on loopback, as a context manager."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import secrets
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from ctclip_client.errors import (
    CTClipError,
    DeadlineExceeded,
    InvalidInput,
    ServerError,
    Unavailable,
)
from ctclip_client.transport.failures import NO_ROOM, NO_ROOM_REMEDY
from ctclip_server.backends.shared.options import NO_BFLOAT16
from ctclip_server.embedded.diagnosis import Diagnosis, diagnose
from ctclip_server.embedded.installation import Installation, find_installation
from ctclip_server.embedded.kept import KeptTriton
from ctclip_server.embedded.launch import launch_plan
from ctclip_server.embedded.ports import (
    SERVICES,
    Ports,
    check_ports,
    choose_ports,
    resolve,
    taken,
)
from ctclip_server.embedded.processes import dead_stubs, listens_on
from ctclip_server.repository import check_repository

PORT_ATTEMPTS = 5
_NO_KERNEL = "Could not find an implementation for"
STUB_CHECK_S = 1.0
"""How often `wait` looks after Triton's Python processes; a dead one is found the second time."""
CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
"""Signals by which a program ends itself. SIGKILL is a person's, or the kernel's out of memory."""


class _PortTakenError(Exception):
    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port


class RestartableError(ServerError):
    """What ran is lost by a fault of Triton's, not of the repository: it may be started again."""


class EmbeddedTriton:
    """A Triton of this process: started by `with`, stopped with it, gone when it dies.

    Attributes:
        grpc_url, http_url, metrics_url: `host:port` of each service, set once started.
        log: the log file, None unless one was asked for.
    """

    def __init__(  # noqa: PLR0913 (all but the first by keyword, each one of Triton's own choices)
        self,
        repository: str | os.PathLike[str],
        *,
        config_name: str | None = None,
        host: str = "127.0.0.1",
        grpc_port: int = 0,
        http_port: int = 0,
        metrics_port: int = 0,
        startup_timeout_s: float = 300.0,
        model_control: Literal["none", "explicit"] = "none",
        load_models: Sequence[str] = ("*",),
        log: str | os.PathLike[str] | None = None,
        extra_arguments: Sequence[str] = (),
    ) -> None:
        """Describe the server; nothing starts before `start()` or `with`.

        Args:
            repository: a Triton model repository.
            config_name: takes MODEL/configs/NAME.pbtxt where it exists.
            host: IPv4 address or name to bind to.
            grpc_port, http_port, metrics_port: 0 = a free port.
            startup_timeout_s: seconds until every model has to be ready.
            model_control: `explicit` allows loading and unloading by request.
            load_models: with `explicit`, the models to load at the start; `*` is all.
            log: a file for Triton's whole log; it is overwritten. Started again after it had been
                ready, Triton appends, so that it still says how the last one ended.
            extra_arguments: further options of `tritonserver`, passed as they are.
        """
        self.repository = Path(repository)
        self.config_name = config_name
        self.host = host
        self.startup_timeout_s = startup_timeout_s
        self.model_control = model_control
        self.load_models = tuple(load_models)
        self.log = None if log is None else Path(log)
        self.extra_arguments = tuple(extra_arguments)
        self.grpc_url = self.http_url = self.metrics_url = ""
        self._asked_ports = (grpc_port, http_port, metrics_port)
        self._triton: KeptTriton | None = None
        self._log_from = 0  # byte of the log where what is of interest now begins
        self._has_been_ready = False
        self._ready = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start Triton and return when every model is ready. Started again, it has the same ports.

        Raises:
            InvalidInput: the repository, the host or a port cannot be used as given.
            Unavailable: a port is taken, or this machine cannot run the embedded Triton.
            DeadlineExceeded: not ready within `startup_timeout_s`.
            ServerError: Triton ended on its own. RestartableError: so it did, by a crash, but it
                has been ready before.
        """
        if self._triton is not None:
            raise InvalidInput("This EmbeddedTriton has been started already.", "Stop it first.")
        installation = find_installation()
        check_repository(
            self.repository,
            self.config_name,
            None if self.model_control == "none" or "*" in self.load_models else self.load_models,
        )
        address = resolve(self.host)
        check_ports(address, self._asked_ports)
        if self.log is not None:
            _check_writable(self.log)
        deadline = time.monotonic() + self.startup_timeout_s
        for _ in range(PORT_ATTEMPTS):
            ports = choose_ports(address, self._asked_ports)
            try:
                self._triton = self._launch(installation, address, ports)
                self._await_ready(self._triton, address, ports, deadline)
            except _PortTakenError as lost:
                self.stop()
                if lost.port in self._asked_ports:
                    raise taken(lost.port) from None
            except BaseException:
                self._ready = False  # nothing is in flight yet: no reason to wait
                self.stop()
                raise
            else:
                self._asked_ports = ports
                self.grpc_url, self.http_url, self.metrics_url = (
                    f"{self.host}:{port}" for port in ports
                )
                return
        raise Unavailable(
            f"Each of {PORT_ATTEMPTS} sets of free ports was taken by others before Triton got it.",
            "Name ports that nothing else uses: --grpc-port, --http-port, --metrics-port.",
        )

    def stop(self) -> None:
        """Stop Triton: gracefully if it was ready, by force if it does not follow.

        Interrupted (Ctrl-C), it forces the end before it raises. Harmless when nothing runs.
        """
        triton, self._triton = self._triton, None
        if triton is not None:
            graceful, self._ready = self._ready, False
            triton.stop(graceful)

    def is_running(self) -> bool:
        """Whether Triton still runs."""
        return self._triton is not None and self._triton.is_running()

    @property
    def process_id(self) -> int | None:
        """Triton's process id, None while it does not run."""
        return None if self._triton is None else self._triton.process_id

    def wait(self, timeout_s: float = math.inf) -> None:
        """Wait until Triton ends, which it does on its own only by failing.

        Returns after `timeout_s` if nothing is wrong: a few seconds tell.

        Raises:
            RestartableError: it crashed, or a model's Python process is gone, which Triton does
                not repair; `stop` and `start` bring it back.
            ServerError: always otherwise, with the reason.
        """
        before: set[int] = set()
        looked = time.monotonic()
        deadline = looked + timeout_s
        triton = self._triton
        while triton is not None and triton.is_running():
            if time.monotonic() > deadline:
                return
            triton.listen(0.5)
            if triton.process_id is None or time.monotonic() - looked < STUB_CHECK_S:
                continue
            dead, looked = dead_stubs(triton.process_id), time.monotonic()
            if dead & before:
                self._ready = False  # it would wait for that process, and in vain
                raise RestartableError("The Python process of a model has died.", self._hint())
            before = dead
        raise self._ended("Triton ended")

    def _launch(self, installation: Installation, address: str, ports: Ports) -> KeptTriton:
        identity = f"ctclip-{secrets.token_hex(6)}"
        arguments = [f"--{name}-address={address}" for name in SERVICES]
        arguments += [f"--{name}-port={port}" for name, port in zip(SERVICES, ports, strict=True)]
        if self.config_name is not None:
            arguments.append(f"--model-config-name={self.config_name}")
        if self.model_control == "explicit":
            arguments.append("--model-control-mode=explicit")
            arguments += [f"--load-model={name}" for name in self.load_models]
        plan = launch_plan(
            installation, identity, self.repository, [*arguments, *self.extra_arguments]
        )
        if self.log is not None:
            plan |= {"log": str(self.log.resolve()), "append": self._has_been_ready}
        self._log_from = _size(self.log) if self._has_been_ready else 0
        return KeptTriton(plan)

    def _await_ready(self, triton: KeptTriton, address: str, ports: Ports, deadline: float) -> None:
        local = "127.0.0.1" if address == "0.0.0.0" else address  # noqa: S104
        while True:
            triton.listen(0.05)
            if not triton.is_running():
                diagnosis = self._diagnosis()
                if diagnosis.taken_port is not None:
                    raise _PortTakenError(diagnosis.taken_port)
                if diagnosis.models:
                    raise self._not_loaded(diagnosis)
                raise self._ended("Triton ended before it was ready")
            # The metrics port comes last: a taken one ends Triton just after it said "ready".
            if (
                triton.process_id is not None
                and listens_on(triton.process_id, ports)
                and _models_are_ready(local, ports[1])
            ):
                self._ready = self._has_been_ready = True
                # What it complained of until here has not kept it from being ready.
                self._log_from = _size(triton.log)
                return
            if time.monotonic() > deadline:
                raise self._too_slow()

    def _log_text(self) -> str:
        if self._triton is None or self._triton.log is None:
            return ""
        with contextlib.suppress(OSError):
            with self._triton.log.open("rb") as log:
                log.seek(self._log_from)
                text = log.read().decode("utf-8", "replace")
            return text.replace(f"{self._triton.root}/repository", str(self.repository))
        return ""

    def _diagnosis(self) -> Diagnosis:
        return diagnose(self._log_text())

    def _not_loaded(self, diagnosis: Diagnosis) -> CTClipError:
        reasons = [f"'{model}' does not load: {why}" for model, why in diagnosis.models.items()]
        remedy = f"Fix {self.repository}, or export it again."
        if any(NO_ROOM in why for why in diagnosis.models.values()):
            remedy = NO_ROOM_REMEDY
        elif any(_NO_KERNEL in why for why in diagnosis.models.values()):
            remedy = (
                "ONNX Runtime cannot compute in this precision here (bf16 on a CPU): OpenVINO can, "
                "with --config-name openvino."
            )
        elif any(NO_BFLOAT16 in why for why in diagnosis.models.values()):
            remedy = "Serve it in float32, with --config-name openvino."
        return InvalidInput("\n       ".join(reasons), f"{remedy} {self._hint()}")

    def _ended(self, what: str) -> CTClipError:
        code = None if self._triton is None else self._triton.exit_code
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"signal {-code}, {signal.Signals(-code).name}"
        restartable = self._has_been_ready and code is not None and -code in CRASHES
        errors = self._diagnosis().errors
        return (RestartableError if restartable else ServerError)(
            f"{what} ({how})" + (f": {errors[-1]}" if errors else "."), self._hint()
        )

    def _too_slow(self) -> CTClipError:
        errors = self._diagnosis().errors
        return DeadlineExceeded(
            f"Not every model was ready within {self.startup_timeout_s:g} s"
            + (f"; the last error in the log: {errors[-1]}" if errors else "."),
            f"Allow more with --startup-timeout-s. {self._hint()}",
        )

    def _hint(self) -> str:
        return "The whole log: " + (str(self.log) if self.log else "start again with --log FILE.")


def _size(path: Path | None) -> int:
    if path is not None:
        with contextlib.suppress(OSError):
            return path.stat().st_size
    return 0


def _check_writable(log: Path) -> None:
    try:
        log.open("ab").close()
    except OSError as error:
        raise InvalidInput(
            f"log: cannot write {log}: {error.strerror}.", "Name a file in an existing folder."
        ) from error


def _models_are_ready(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=2)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
