"""A cluster's hosts have what a test needs, wherever that is on the machine that runs the test."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path

import pytest

import tests.cluster
from tests.cluster import cluster, missing_tools

_TOOLS = ("sshd", "ssh", "ssh-keygen", "systemctl", "pgrep")


# folders that each host has of its own
@pytest.mark.parametrize(("place", "other_place"), [("/tmp", "/var/tmp"), ("/run", "/tmp")])
def test_a_checkout_and_files_anywhere(
    place: str, other_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = missing_tools(*_TOOLS)
    if reason:
        pytest.skip(reason)
    with (
        tempfile.TemporaryDirectory(prefix="any where-", dir=place) as checkout,
        tempfile.TemporaryDirectory(prefix="any where-", dir=other_place) as files,
        tempfile.NamedTemporaryFile(dir="/tmp") as stranger,
    ):
        wanted = Path(checkout, "outside")
        wanted.write_text("seen")
        monkeypatch.setattr(tests.cluster, "CHECKOUT", Path(checkout))
        folder = Path(files, "cluster")
        folder.mkdir()
        with cluster(1, folder, f"any{os.getpid()}-") as made:
            [host] = made.hosts
            for member in (made.installer, host):
                assert member.run("cat", str(wanted)) == "seen"
                member.run("touch", f"{files}/of {member.name}")
                assert Path(stranger.name).name not in member.run("ls", "/tmp").splitlines()
            assert set(os.listdir(files)) == {"cluster", "of installer", "of host-1"}
            ssh = ["ssh", "-i", str(folder / "key"), "-o", "StrictHostKeyChecking=no"]
            command = shlex.join(["cat", str(wanted)])
            assert made.installer.run(*ssh, f"root@{host.address}", command) == "seen"
