"""One release takes the place of another on a running server, without a failed request.

Triton keeps serving what is loaded while it loads more, a request keeps the versions that it began
with, and loading an ensemble makes Triton read the configs of its steps again. So everything is
first written to disk and then loaded from there, in an order in which the configs agree with each
other at every moment: steps serve both versions, the new ones answer their self-check, ensembles
change over one by one, steps serve the new version only. A server that is started in between serves
one release or the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from ctclip_client.contract import CHECK
from ctclip_client.errors import CTClipError, InvalidInput, NotReady, ServerError
from ctclip_client.release.members import Members
from ctclip_client.release.repository import pins, read_config
from ctclip_client.release.self_check import SelfCheck
from ctclip_client.system.terminal import command_line
from ctclip_server.releases.control import Control
from ctclip_server.releases.may_serve import Release
from ctclip_server.releases.running import running_configs
from ctclip_server.releases.versions import replace, stated_versions, with_versions
from ctclip_server.self_check import (
    NONE_THERE,
    STEPS,
    check_version,
    load_self_check,
    not_asked,
)

Stage = Callable[[str], AbstractContextManager[object]]
_EXPLICIT = (
    "Only a server in explicit model control can be told: ctclip serve --model-control explicit, "
    "or tritonserver --model-control-mode=explicit --load-model=*."
)


def served_versions(control: Control, members: Members) -> frozenset[int]:
    """Versions that the server's ensembles answer with: one, or two in an interrupted switch.

    Raises:
        NotReady: none of the repository's ensembles is loaded.
    """
    loaded = _ready(control, members.ensembles)
    if not loaded:
        raise NotReady(
            f"{control.url}: it serves none of {', '.join(members.ensembles)}.",
            f"Name the server of {members.repository}, and wait until it is ready.",
        )
    return frozenset(version for name in loaded for version in pins(control.config(name)))


class Switch:
    """From what a server serves to `target`; `stage` and `say` are told what is going on.

    changed_over: whether the target serves, and all that is left is to unload the rest.
    halfway: whether it was begun, and neither changed over nor all put back.
    """

    def __init__(
        self,
        control: Control,
        members: Members,
        target: Release,
        stage: Stage,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._say = say
        self._control = control
        self._members = members
        self._target = target.version
        self._record = target.record.content
        self._stage = stage
        ready = {name: _ready(control, (name,)) for name in members.all}
        # A server may have been told to load some of the models only.
        self._steps = tuple(name for name in members.steps if ready[name])
        self._ensembles = tuple(name for name in members.ensembles if ready[name])
        self._active = {
            name: running_configs(members.config_files(name), control.config(name))
            for name in self._steps
        }
        self._undo: list[tuple[str, dict[Path, str]]] = []
        self.changed_over = False
        self.halfway = False

    @property
    def completing(self) -> str:
        """The command that completes it.

        With the version: what serves by then no longer tells what an interrupted rollback led to.
        """
        promote = command_line("ctclip", "promote", "--repository", self._members.repository)
        return f"{promote} {self._control.flags} --to {self._target}"

    def run(self, served: Collection[int], timeout_s: float) -> dict[str, list[int]]:
        """Switch; return what is still being unloaded after `timeout_s` (model -> versions).

        Raises:
            CTClipError: the switch failed. Before the last ensemble has changed over, everything is
                put back and the server serves what it served; after that, it serves the target.
            KeyboardInterrupt: likewise; after that, a server that is started serves the target
                alone, and a running one may still hold the old version in memory.
        """
        check = load_self_check(self._members.repository, self._target)
        self._refresh(served)
        self.halfway = True
        try:
            self._serve_both(sorted({*served, self._target}))
            self._check_target(check, timeout_s)
            self._change_over()
        except BaseException as error:
            failed = self._put_back()
            self.halfway = bool(failed)
            if failed:
                failed = f"Not everything could be put back: {failed}"
                if isinstance(error, CTClipError):
                    raise type(error)(
                        f"{error.cause} {failed}",
                        "The configs on disk agree with each other: start the server again, or "
                        f"complete the switch: {self.completing}",
                    ) from error
                self._say(failed)  # whoever hears of the interruption tells what completes it
            elif isinstance(error, CTClipError):
                raise type(error)(
                    f"{error.cause} Nothing has changed: version "
                    f"{', '.join(map(str, sorted(served)))} still serves.",
                    error.remedy,
                ) from error
            raise
        self.changed_over, self.halfway = True, False
        try:
            with self._stage(f"Unload all but version {self._target}"):
                for name in self._steps:
                    for path in self._active[name]:
                        self._write(path, [self._target])
                    self._control.load(name)
                left = self._control.wait_until_unloaded(self._members.all, self._target, timeout_s)
            self._write_the_rest()
        except CTClipError as error:
            raise type(error)(
                f"{error.cause} Version {self._target} serves, but the switch is not complete.",
                f"{error.remedy} This completes it: {self.completing}",
            ) from error
        except KeyboardInterrupt:
            try:
                self._write_the_rest()
            except CTClipError as error:
                self._say(f"{error.cause} {error.remedy}")
            raise
        return left

    def _refresh(self, served: Collection[int]) -> None:
        """Let Triton take note of files that changed since it last looked.

        It loads a version again if anything but its own config has a newer date. Better now, when
        one version is loaded, than together with the second. It also tells whether the server can
        be told anything at all.
        """
        with self._stage("Ask the server for model control"):
            for name in self._steps:
                on_disk = {p: stated_versions(read_config(p)) for p in self._active[name]}
                if any(v is not None and not set(served) <= set(v) for v in on_disk.values()):
                    continue  # another server of this repository was switched before
                for path, versions in on_disk.items():
                    if versions is None:  # Triton would take the newest, and drop what is served
                        self._write(path, served)
                try:
                    self._control.load(name)
                except NotReady as error:
                    raise NotReady(error.cause, _EXPLICIT) from error

    def _serve_both(self, versions: list[int]) -> None:
        for name in self._steps:
            with self._stage(f"Load {name} version {self._target}"):
                self._change(name, self._active[name], versions)
                self._check_ready(name)
        if CHECK.name in self._steps:
            said = self._control.provenance(CHECK.name, self._target)
            if said != self._record:
                raise ServerError(
                    f"{self._control.url}: its version {self._target} is release "
                    f"{said.get('release')}, {self._members.repository} has "
                    f"{self._record['release']}.",
                    "Does the server serve this repository?",
                )

    def _check_target(self, check: SelfCheck | None, timeout_s: float) -> None:
        """Let the target answer its self-check, on the server's machine, before any caller."""
        absent = set(STEPS) - set(self._steps)
        if check is None:
            self._say(NONE_THERE)
        elif absent:
            self._say(not_asked("the server", absent))
        else:
            with self._stage(f"Self-check of version {self._target}"):
                told = check_version(self._control, check, self._target, timeout_s)
            self._say(told)

    def _change_over(self) -> None:
        with self._stage(f"Change the ensembles over to version {self._target}"):
            for name in self._ensembles:
                config = self._members.config(name)
                self._change(name, [config], [self._target], self._target)
                self._check_ready(name)

    def _change(
        self, name: str, paths: Iterable[Path], versions: Collection[int], pin: int | None = None
    ) -> None:
        before = {path: path.read_text("utf-8") for path in paths}
        self._undo.append((name, before))
        for path in before:
            self._write(path, versions, pin)
        self._control.load(name)

    def _check_ready(self, name: str) -> None:
        if self._control.states().get(name, {}).get(self._target) != "READY":
            raise ServerError(
                f"{self._control.url}: it did not load {name} version {self._target}.",
                "Does the server serve this repository? Look into its log.",
            )

    def _put_back(self) -> str:
        """Undo what was done, the latest first: configs, then what the server has loaded.

        Return the first reason why something is not as it was, "" where all is.
        """
        failed = ""
        with self._stage("Put everything back"):
            for name, before in reversed(self._undo):
                try:
                    for path, text in before.items():
                        replace(path, text)
                    self._control.load(name)
                except CTClipError as error:
                    failed = failed or f"{name}: {error.cause}"
        return failed

    def _write_the_rest(self) -> None:
        """The configs that this server does not run with, for the next start of any other."""
        for name in self._members.steps:
            for path in self._members.config_files(name):
                self._write(path, [self._target])
        for name in self._members.ensembles:
            for path in self._members.config_files(name):
                self._write(path, [self._target], self._target)

    def _write(self, path: Path, versions: Collection[int], pin: int | None = None) -> None:
        text = with_versions(path, versions, pin)
        if text != path.read_text("utf-8"):
            replace(path, text)


def _ready(control: Control, models: Iterable[str]) -> tuple[str, ...]:
    states = control.states()
    return tuple(name for name in models if "READY" in states.get(name, {}).values())


def choose_target(
    members: Members, served: Collection[int], *, back: bool, asked: int | None = None
) -> int:
    """The version that a promotion or a rollback leads to.

    Forward: the highest one. Back: the next below what is served, or, where a switch was
    interrupted, the lower of the two versions that it was between.

    Raises:
        InvalidInput: there is none.
    """
    there = members.complete_versions()
    if asked is not None:
        if asked not in there:
            raise InvalidInput(
                f"--to: the repository has no complete version {asked}.",
                f"It has {', '.join(map(str, there))}.",
            )
        return asked
    lowest = min(served)
    if not back:
        higher = [version for version in there if version >= lowest]
        if not higher:
            raise InvalidInput(f"repository: it has no version {lowest}, which is served.")
        return max(higher)
    if len(served) > 1 or _loads_more_than(members, lowest):
        return lowest
    lower = [version for version in there if version < lowest]
    if not lower:
        raise InvalidInput(
            f"repository: version {lowest} is served, and there is none before it.",
            f"It has {', '.join(map(str, there))}; --to VERSION names another.",
        )
    return max(lower)


def _loads_more_than(members: Members, version: int) -> bool:
    """Whether a step's config on disk asks for a version above `version`."""
    return any(
        max(stated_versions(read_config(path)) or (version,)) > version
        for name in members.steps
        for path in members.config_files(name)
    )
