"""What strangers in the network cost a transfer, in short; `make hostile` is the long form.

Whatever they send: every client ends with the image, by multicast, and the transfer takes no more
than a tenth longer. A machine that tests run on is busy with other things, so there is a margin;
the processor time that counts is the victims' own, in which the stranger's is not.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import pytest

from lab import Lab
from tests.hostile.trial import Attack, Figures, attacked_lab, trial

_CLIENTS = 2
_SIZE = 24 << 20
_RATE_BPS = 300_000_000
#: What an attack may cost at the most, and what two runs differ by here for no reason.
_SHARE = 1.1
_NOISE_S = 0.3
_MEMORY = 64 << 20
#: A machine has bad moments, which an attack that costs too much does not need.
_TRIES = 3

#: An option of the server, with which both ends share a secret.
_SEALED = ("--encrypt",)

Trial = Callable[..., Figures]


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Carries out one transfer in the lab of this module."""
    reason = Lab.available()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("hostile")
    image = folder / "image"
    image.write_bytes(random.Random(3).randbytes(_SIZE))
    with attacked_lab(f"kh-{os.getpid()}-", _CLIENTS, _RATE_BPS, own_frames=True) as lab:
        token = folder / "token"
        token.write_text("a secret of the hosts of this lab\n")
        token.chmod(0o600)

        def once(attack: Attack | None, *words: str) -> Figures:
            both = ("--token-file", str(token)) if words == _SEALED else ()
            return trial(lab, folder, image, attack, *words, both=both)

        yield once


@pytest.fixture(scope="module")
def alone(attempt: Trial) -> Figures:
    """How it goes when nobody attacks."""
    return attempt(None)


@pytest.fixture(scope="module")
def sealed(attempt: Trial) -> Figures:
    """The same where each packet is sealed."""
    return attempt(None, *_SEALED)


def _excess(figures: Figures, alone: Figures) -> list[str]:
    """What an attack costs beyond what it may."""
    found = []
    for field in ("seconds", "server_cpu_s", "client_cpu_s"):
        here, before = getattr(figures, field), getattr(alone, field)
        if here > _SHARE * before + _NOISE_S:
            found.append(f"{field}: {here:.2f}, alone {before:.2f}")
    for field in ("server_bytes", "client_bytes"):
        here, before = getattr(figures, field), getattr(alone, field)
        if here > before + _MEMORY:
            found.append(f"{field}: {here / 2**20:.0f} MiB, alone {before / 2**20:.0f}")
    if figures.clients_fetching > alone.clients_fetching:
        found.append(f"{figures.clients_fetching} clients fetch")
    return found


def _assert_it_costs_little(attempt: Trial, alone: Figures, attack: Attack, *words: str) -> None:
    """Every client has the image (`trial` has compared them), at no more than this cost."""
    told = []
    for _ in range(_TRIES):
        excess = _excess(attempt(attack, *words), alone)
        if not excess:
            return
        told += excess
    pytest.fail("; ".join(told))


@pytest.mark.parametrize(
    "attack",
    [
        Attack("junk", rate=80_000),
        Attack("data", rate=20_000),
        Attack("recipes", rate=5_000),
        Attack("control", rate=20_000),
    ],
    ids=lambda attack: attack.kind,
)
def test_datagrams_to_the_group(attempt: Trial, alone: Figures, attack: Attack) -> None:
    """With the right checksum, too: the kernel drops what the server has not sent."""
    _assert_it_costs_little(attempt, alone, attack)


@pytest.mark.parametrize(
    "attack",
    [
        Attack("junk", is_spoofed=True, rate=80_000),
        Attack("full-junk", is_spoofed=True, rate=10_000),
    ],
    ids=lambda attack: attack.kind,
)
def test_noise_that_seems_to_be_the_server_s(
    attempt: Trial, alone: Figures, attack: Attack
) -> None:
    """The kernel lets it in; a look at many at a time is all that it costs."""
    _assert_it_costs_little(attempt, alone, attack)


@pytest.mark.parametrize(
    "attack",
    [
        Attack("data", is_spoofed=True, rate=5_000, sniffs=True),
        Attack("recipes", is_spoofed=True, rate=5_000, sniffs=True),
        Attack("control", is_spoofed=True, rate=5_000, sniffs=True),
    ],
    ids=lambda attack: attack.kind,
)
def test_forged_packets_where_each_is_sealed(
    attempt: Trial, sealed: Figures, attack: Attack
) -> None:
    """With the right address and checksum: none comes open, and all others do."""
    _assert_it_costs_little(attempt, sealed, attack, *_SEALED)
