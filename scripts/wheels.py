"""Makes a folder of wheels that hosts install kollacast from, and a list of their digests.

    python scripts/wheels.py FOLDER

The wheels are those that pip chooses for the Python that runs this; hosts need the same one. The
list is ``requirements.txt`` in the folder: with ``--require-hashes`` pip installs these wheels and
no others.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

_PROJECT = Path(__file__).parent.parent
#: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
_WHEEL = re.compile(r"([A-Za-z0-9_.]+)-([A-Za-z0-9_.!+]+)(-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl")


def main() -> None:
    """Exits with pip's status where that fails."""
    if len(sys.argv) != 2:
        sys.exit("usage: wheels.py FOLDER")
    folder = Path(sys.argv[1])
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(folder)]
    status = subprocess.run([*pip, f"{_PROJECT}[fast]"]).returncode
    if status:
        sys.exit(status)
    lines = [_requirement(path) for path in sorted(folder.glob("*.whl"))]
    folder.joinpath("requirements.txt").write_text("".join(lines))


def _requirement(path: Path) -> str:
    match = _WHEEL.fullmatch(path.name)
    if match is None:
        sys.exit(f"{path}: not the name of a wheel")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{match[1].replace('_', '-')}=={match[2]} --hash=sha256:{digest}\n"


if __name__ == "__main__":
    main()
