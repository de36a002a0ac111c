"""Images that run: a few programs of this machine, with what they load, and files of a test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster import Member


def make_image(
    member: Member,
    folder: Path,
    programs: Sequence[str],
    scripts: Mapping[str, str],
    config: Mapping[str, str],
) -> str:
    """Make an OCI layout in the empty `folder`, on `member`; returns its image in skopeo's words.

    `scripts` are executable files by their path; `config` is umoci's, by key.
    """
    oci = f"{folder / 'oci'}:image"
    layer, tree = str(folder / "layer.tar"), folder / "tree"
    for path, text in scripts.items():
        script = tree / path.lstrip("/")
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(text)
        script.chmod(0o755)
    own = sorted({path.lstrip("/").split("/")[0] for path in scripts})
    libraries = set(re.findall(r"/lib\S+", member.run("ldd", *programs)))
    files = [path.lstrip("/") for path in (*programs, *sorted(libraries))]
    member.run("tar", "-chf", layer, "-C", "/", *files, "-C", str(tree), *own)
    member.run("umoci", "init", "--layout", str(folder / "oci"))
    member.run("umoci", "new", "--image", oci)
    member.run("umoci", "raw", "add-layer", "--image", oci, layer)
    words = [word for key, value in config.items() for word in (f"--config.{key}", value)]
    member.run("umoci", "config", "--image", oci, *words)
    return f"oci:{oci}"
