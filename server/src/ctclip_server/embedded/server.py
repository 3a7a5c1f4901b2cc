"""The real Triton of the nvidia-pytriton wheel on loopback, as a context manager."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from ctclip_client.errors import (
    CTClipError,
    DeadlineExceeded,
    InvalidInput,
    ServerError,
    Unavailable,
)
from ctclip_server.backends.shared.options import NO_BFLOAT16
from ctclip_server.embedded import keeper
from ctclip_server.embedded.diagnosis import Diagnosis, diagnose
from ctclip_server.embedded.installation import (
    BACKENDS,
    Installation,
    environment_files,
    find_installation,
)
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
DRAIN_S = 10
"""Seconds that requests in flight get when the server is stopped."""
_NO_KERNEL = "Could not find an implementation for"
STUB_CHECK_S = 1.0
"""How often `wait` looks after Triton's Python processes; a dead one is found the second time."""
CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
"""Signals by which a program ends itself. SIGKILL is a person's, or the kernel's out of memory."""
STUB_SHARED_MEMORY_BYTES = 1 << 20
"""First size of a Python stub's shared memory; Triton grows it to what its tensors need."""


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
        process_id: Triton's process id, None while it does not run.
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
        self.process_id: int | None = None
        self._asked_ports = (grpc_port, http_port, metrics_port)
        self._keeper: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._identity = ""
        self._log_path: Path | None = None
        self._log_from = 0  # byte of the log where what is of interest now begins
        self._has_been_ready = False
        self._root = ""
        self._reports = b""
        self._exit_code: int | None = None
        self._ready = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
        if self._keeper is not None:
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
                self._launch(installation, address, ports)
                self._await_ready(address, ports, deadline)
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
        process = self._keeper
        if process is None or self._owner != os.getpid():
            return
        graceful = self._ready and self._exit_code is None
        try:
            self._command(b"stop %d" % (DRAIN_S + 5) if graceful else b"kill")
            if not _ends(process, DRAIN_S + 20):
                self._force(process)
        except BaseException:
            self._force(process)
            raise
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self._keeper = None
            self._ready = False
            self.process_id = None
            self._exit_code = None
            self._reports = b""

    def _force(self, process: subprocess.Popen[bytes]) -> None:
        self._command(b"kill")
        if not _ends(process, 10):
            process.kill()  # its death takes Triton with it
            process.wait()

    def is_running(self) -> bool:
        """Whether Triton still runs."""
        self._read_reports(0)
        return self._keeper is not None and self._exit_code is None

    def wait(self, timeout_s: float = math.inf) -> None:
        """Wait until Triton ends, which it does on its own only by failing.

        Returns after `timeout_s` if nothing is wrong: a few seconds tell.

        Raises:
            RestartableError: it crashed, or a model's Python process is gone, which Triton does
                not mend; `stop` and `start` bring it back.
            ServerError: always otherwise, with the reason.
        """
        before: set[int] = set()
        looked = time.monotonic()
        deadline = looked + timeout_s
        while self.is_running():
            if time.monotonic() > deadline:
                return
            self._read_reports(0.5)
            if self.process_id is None or time.monotonic() - looked < STUB_CHECK_S:
                continue
            dead, looked = dead_stubs(self.process_id), time.monotonic()
            if dead & before:
                self._ready = False  # it would wait for that process, and in vain
                raise RestartableError("The Python process of a model has died.", self._hint())
            before = dead
        raise self._ended("Triton ended")

    def _launch(self, installation: Installation, address: str, ports: Ports) -> None:
        token = secrets.token_hex(6)
        self._identity = f"ctclip-{token}"
        plan = self._plan(installation, address, ports)
        self._owner = os.getpid()
        self._reports = b""
        self._exit_code = None
        self._log_path = None
        self._log_from = _size(self.log) if self._has_been_ready else 0
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._command(json.dumps(plan).encode())

    def _plan(self, installation: Installation, address: str, ports: Ports) -> dict[str, object]:
        """What the keeper lays out and starts; `root` stands for the folder that it will make."""
        root = f"<{self._identity}>"
        links = {
            # The stub is started through a shell without quotes: the repository's own path may
            # hold spaces, this one cannot.
            "repository": str(self.repository.resolve()),
            f"lib/{installation.libpython.name}": str(installation.libpython),
            "backends/python/triton_python_backend_stub": str(installation.stub),
            "backends/python/triton_python_backend_utils.py": str(
                installation.python_backend / "triton_python_backend_utils.py"
            ),
        }
        for backend in _drop_ins():
            links[f"backends/{backend.name}/model.py"] = str(backend / "model.py")
        search = str(installation.interpreter.parent)
        files: dict[str, str] = {}
        if not installation.in_virtual_environment:
            links["bin/python3"] = str(installation.interpreter)
            files = environment_files(installation)
            search = f"{root}/bin"
        library = "libtriton_python.so"
        return {
            "prefix": f"{self._identity}-",
            "root": root,
            "directory": _runtime_directory(),
            "links": links,
            "files": files,
            # A link would be refused: Triton does not follow one out of a backend's folder.
            "copies": {f"backends/python/{library}": str(installation.python_backend / library)},
            "environment": {
                "PATH": f"{search}:{os.environ.get('PATH', os.defpath)}",
                "LD_LIBRARY_PATH": f"{installation.libraries}:{root}/lib",
            },
            "arguments": self._arguments(installation, root, address, ports),
            "log": f"{root}/triton.log" if self.log is None else str(self.log.resolve()),
            "append": self._has_been_ready,
        }

    def _arguments(
        self, installation: Installation, root: str, address: str, ports: Ports
    ) -> list[str]:
        arguments = [
            str(installation.binary),
            f"--id={self._identity}",
            f"--model-repository={root}/repository",
            f"--backend-directory={root}/backends",
            f"--cache-directory={installation.caches}",
            # The configs are complete; completing them would start every Python model twice.
            "--disable-auto-complete-config",
            "--exit-on-error=true",
            "--strict-readiness=true",
            f"--exit-timeout-secs={DRAIN_S}",
            f"--backend-config=python,shm-region-prefix-name={self._identity}-",
            f"--backend-config=python,shm-default-byte-size={STUB_SHARED_MEMORY_BYTES}",
        ]
        for service, port in zip(SERVICES, ports, strict=True):
            arguments += [f"--{service}-address={address}", f"--{service}-port={port}"]
        if self.config_name is not None:
            arguments.append(f"--model-config-name={self.config_name}")
        if self.model_control == "explicit":
            arguments.append("--model-control-mode=explicit")
            arguments += [f"--load-model={name}" for name in self.load_models]
        return [*arguments, *self.extra_arguments]

    def _await_ready(self, address: str, ports: Ports, deadline: float) -> None:
        local = "127.0.0.1" if address == "0.0.0.0" else address  # noqa: S104
        while True:
            self._read_reports(0.05)
            if self._exit_code is not None:
                diagnosis = self._diagnosis()
                if diagnosis.taken_port is not None:
                    raise _PortTakenError(diagnosis.taken_port)
                if diagnosis.models:
                    raise self._not_loaded(diagnosis)
                raise self._ended("Triton ended before it was ready")
            # The metrics port comes last: a taken one ends Triton just after it said "ready".
            if (
                self.process_id is not None
                and listens_on(self.process_id, ports)
                and _models_are_ready(local, ports[1])
            ):
                self._ready = self._has_been_ready = True
                # What it complained of until here has not kept it from being ready.
                self._log_from = _size(self._log_path)
                return
            if time.monotonic() > deadline:
                raise self._too_slow()

    def _read_reports(self, timeout_s: float) -> None:
        """Take in what the keeper has written, waiting for it at most `timeout_s` seconds."""
        process = self._keeper
        if process is None or process.stdout is None or self._exit_code is not None:
            return
        descriptor = process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return
        chunk = os.read(descriptor, 65536)
        if not chunk:
            self._exit_code = -signal.SIGKILL
            return
        self._reports += chunk
        *lines, self._reports = self._reports.split(b"\n")
        for line in lines:
            report = json.loads(line)
            if "failed" in report:
                raise ServerError(f"Triton cannot be started: {report['failed']}.")
            if "started" in report:
                self.process_id = report["started"]
                self._root = report["root"]
                self._log_path = self.log or Path(report["root"], "triton.log")
            if "exited" in report:
                self._exit_code = report["exited"]

    def _command(self, line: bytes) -> None:
        if self._keeper is not None and self._keeper.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ValueError):
                self._keeper.stdin.write(line + b"\n")
                self._keeper.stdin.flush()

    def _log_text(self) -> str:
        if self._log_path is None:
            return ""
        with contextlib.suppress(OSError):
            with self._log_path.open("rb") as log:
                if self._log_from:
                    log.seek(self._log_from)
                text = log.read().decode("utf-8", "replace")
            return text.replace(f"{self._root}/repository", str(self.repository))
        return ""

    def _diagnosis(self) -> Diagnosis:
        return diagnose(self._log_text())

    def _not_loaded(self, diagnosis: Diagnosis) -> CTClipError:
        reasons = [f"'{model}' does not load: {why}" for model, why in diagnosis.models.items()]
        remedy = f"Mend {self.repository}, or export it again."
        if any(_NO_KERNEL in why for why in diagnosis.models.values()):
            remedy = (
                "ONNX Runtime cannot compute in this precision here (bf16 on a CPU): OpenVINO can, "
                "with --config-name openvino."
            )
        elif any(NO_BFLOAT16 in why for why in diagnosis.models.values()):
            remedy = "Serve it in float32, with --config-name openvino."
        return InvalidInput("\n       ".join(reasons), f"{remedy} {self._hint()}")

    def _ended(self, what: str) -> CTClipError:
        code = self._exit_code
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


def _ends(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
    return process.returncode is not None


def _drop_ins() -> list[Path]:
    return sorted(path.parent for path in BACKENDS.glob("*/model.py"))


def _runtime_directory() -> str:
    """The folder for temporary files; Triton's way of starting stubs allows no blank in it."""
    folder = tempfile.gettempdir()
    safe = folder.isascii() and not set(folder) & set(" \t'\"\\$`&;|<>()*?[]#~")
    return folder if safe else "/tmp"  # noqa: S108


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
