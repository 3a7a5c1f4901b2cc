"""Machines and environments that cannot run the embedded Triton are told so."""

from __future__ import annotations

import dataclasses
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ctclip_client.errors import Unavailable
from ctclip_server.embedded import installation


def test_this_machine_has_all_files():
    found = installation.find_installation()
    for path in (found.binary, found.libraries, found.stub, found.libpython, found.interpreter):
        assert path.exists()


def test_a_missing_libpython_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(installation, "libpython_folders", lambda: ["/nonexistent"])
    with pytest.raises(Unavailable, match=r"needs libpython3\.\d+\.so\.1\.0") as error:
        installation.find_installation()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for remedy in (f"apt-get install libpython{version}.", f"pyenv install --force {version}."):
        assert remedy in error.value.remedy


def test_debians_library_counts_for_debians_python_only(monkeypatch):
    monkeypatch.setattr(
        installation.sysconfig,
        "get_config_var",
        {"LIBDIR": "/usr/lib", "MULTIARCH": "x86_64-linux-gnu"}.get,
    )
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert "/usr/lib/x86_64-linux-gnu" in installation.libpython_folders()
    monkeypatch.setattr(sys, "base_prefix", "/opt/python")
    assert "/usr/lib/x86_64-linux-gnu" not in installation.libpython_folders()


@pytest.mark.parametrize(
    ("found", "said"), [(("glibc", "2.31"), "has glibc 2.31"), (("", ""), "musl")]
)
def test_an_old_c_library_is_named(monkeypatch, found, said):
    monkeypatch.setattr(installation.platform, "libc_ver", lambda: found)
    with pytest.raises(Unavailable, match=said):
        installation.find_installation()


def test_numpy_2_is_refused(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda _name: "2.1.0")
    with pytest.raises(Unavailable, match=r"NumPy 2\.1\.0") as error:
        installation.find_installation()
    assert "numpy<2" in error.value.remedy


def test_a_missing_wheel_is_named(monkeypatch):
    monkeypatch.setattr(installation, "find_spec", lambda _name: None)
    with pytest.raises(Unavailable, match="nvidia-pytriton") as error:
        installation.find_installation()
    assert "pip install ./client ./server" in error.value.remedy


def test_stubs_import_from_folders_of_their_own_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For a NumPy before 2 beside a newer one; what a virtual environment has comes last."""
    found = dataclasses.replace(installation.find_installation(), in_virtual_environment=True)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv(installation.STUB_PATH, raising=False)
    assert not installation.has_own_environment(found)
    old, added = tmp_path / "old", tmp_path / "added"
    monkeypatch.setenv(installation.STUB_PATH, str(old))
    monkeypatch.setenv("PYTHONPATH", str(added))
    assert installation.has_own_environment(found)
    (paths,) = (
        text for name, text in installation.environment_files(found).items() if name != "pyvenv.cfg"
    )
    lines = paths.splitlines()
    assert lines[:2] == [str(old), str(added)]
    assert all(line.startswith("import site; site.addsitedir(") for line in lines[2:])
    about = old / "numpy-2.9.0.dist-info" / "METADATA"
    about.parent.mkdir(parents=True)
    about.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.9.0\n", encoding="utf-8")
    with pytest.raises(Unavailable, match=r"NumPy 2\.9\.0"):
        installation.find_installation()
