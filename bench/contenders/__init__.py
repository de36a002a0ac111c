"""The tools that are compared, by the names that the command line and the table use."""

from bench.contenders.base import Contender, Scene
from bench.contenders.crowd import KollacastToCrowd, watched_by_crowd
from bench.contenders.kollacast import Kollacast, sweep, watched, with_sha256
from bench.contenders.udpcast import Udpcast
from bench.contenders.uftp import Uftp
from bench.contenders.unicast import Unicast

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (Kollacast(), with_sha256(), Udpcast(), Uftp(), Unicast())
}

__all__ = [
    "CONTENDERS",
    "Contender",
    "Kollacast",
    "KollacastToCrowd",
    "Scene",
    "sweep",
    "watched",
    "watched_by_crowd",
]
