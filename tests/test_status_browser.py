"""The status page in a real browser, beside a distribution to clients on hosts of their own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import pytest_twisted
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from lab import Lab
from tests.browser import Browser, missing
from tests.processes import PATIENCE_S, Crew, image_of, make_crew, on_the_reactor

crew = pytest_twisted.async_yield_fixture(make_crew)

_T = TypeVar("_T")
_URL = "http://127.0.0.1:8080/"
_SIZE = 12_000_000
#: At which they take six seconds.
_RATE = "16M"
#: Between two looks at the page, which changes once a second.
_LOOK_S = 0.1
_HOSTILE = '<img src=x onerror="document.title=1">'


async def _ask(browser: Browser, question: Callable[[Any], _T]) -> _T:
    """What `question` finds out with the driver, without a wait on the reactor."""
    asked: Deferred[_T] = deferToThread(browser.ask(question).result)
    return await asked


class _Watcher:
    """A browser on the page, and what can be seen there."""

    def __init__(self, crew: Crew, browser: Browser) -> None:
        self._crew = crew
        self._browser = browser

    async def look(self, script: str, *arguments: Any) -> Any:
        return await _ask(self._browser, lambda d: d.execute_script(script, *arguments))

    async def text(self, element: str) -> str:
        return str(
            await self.look("return document.getElementById(arguments[0]).innerText", element)
        )

    async def until(self, script: str, what: str) -> Any:
        """What a script returns, once that is true."""
        deadline = self._crew.reactor.seconds() + PATIENCE_S
        while not (found := await self.look(script)):
            assert self._crew.reactor.seconds() < deadline, f"waited for {what}"
            await deferLater(self._crew.reactor, _LOOK_S)
        return found

    async def states(self) -> dict[str, str]:
        """What each host's cell says by its colour."""
        script = "return cells.map((cell) => [cell.firstChild.textContent, cell.dataset.state])"
        return dict(await self.look(script))


@on_the_reactor
async def test_a_distribution(crew: Crew) -> None:
    """Progress moves, a killed host turns to failed, and the end is right and stays."""
    reason = Lab.available() or missing()
    if reason:
        pytest.skip(reason)
    image = crew.file("image", image_of(_SIZE))
    with Lab(3, prefix=f"kb-{os.getpid()}-", loss=0.02) as lab:
        server = crew.server(
            *("--input", str(image), "--rate", _RATE, "--status-port", "8080"),
            *("--status-linger", "60", "--report", "report.json"),
            clients=3,
            host=lab.server,
            local_ip=lab.server.address,
        )
        await server.said("waiting for clients")
        browser = Browser(crew.folder, lab.server.namespace)
        try:
            watcher = _Watcher(crew, browser)
            await _ask(browser, lambda driver: driver.get(_URL))
            await watcher.until("return run.phase === 'waiting for clients'", "the first event")
            assert await watcher.text("held") == "0 of 3 hosts here, 3 to come."
            names = [_HOSTILE, "host-2", "host-3"]
            clients = [
                crew.client(
                    *("--name", name, "--output", f"copy-{number}"),
                    host=host,
                    local_ip=host.address,
                    server_ip=lab.server.address,
                )
                for number, (name, host) in enumerate(zip(names, lab.clients, strict=True))
            ]
            await _progress_moves(watcher)
            clients[2].send_signal(signal.SIGKILL)
            await watcher.until(
                "return cells[columns.name.indexOf('host-3')].dataset.state === 'failed'",
                "the killed host to be shown as failed",
            )
            await _details_by_keyboard(browser, watcher)
            await _filters(watcher)
            await watcher.until("return isOver", "the end")
            assert await watcher.text("phase") == "done in part"
            assert "2 of 3 clients have the image" in await watcher.text("message")
            assert await watcher.states() == {
                _HOSTILE: "verified",
                "host-2": "verified",
                "host-3": "failed",
            }
            report = json.loads((crew.folder / "report.json").read_text())
            assert f"sha256:{report['sha256']}" in await watcher.text("digest")
            assert report["sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
            server.send_signal(signal.SIGTERM)
            await server.end()
            # It needs no server for that.
            assert "2 of 3 clients have the image" in await watcher.text("message")
            assert await watcher.look("return document.querySelectorAll('img').length") == 0
            assert await _ask(browser, lambda d: d.get_log("browser")) == []
        finally:
            await deferToThread(browser.close)


async def _progress_moves(watcher: _Watcher) -> None:
    shares = []
    for least in (0.05, 0.3):
        script = f"return run.bytes > {least} * run.total && parseInt($('percent').textContent)"
        shares.append(await watcher.until(script, f"{least:.0%} of the image"))
    assert 5 <= shares[0] < shares[1] < 100, shares
    assert await watcher.look("return $('bar').value") >= 50
    # Something was lost and repaired, and that is drawn.
    lost = await watcher.until(
        "return document.querySelector('#plot-loss polyline') && $('loss').textContent", "loss"
    )
    assert lost.endswith(" % in all")
    assert "MB/s" in await watcher.text("rate")


async def _details_by_keyboard(browser: Browser, watcher: _Watcher) -> None:
    await watcher.look("focus(0)")

    def press(*keys: str) -> Callable[[Any], None]:
        return lambda driver: ActionChains(driver).send_keys(*keys).perform()

    await _ask(browser, press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ENTER))
    assert await watcher.look("return $('details').open")
    shown = await watcher.look("return columns.name.indexOf($('host').textContent)")
    assert shown == 1
    facts = await watcher.text("facts")
    for word in ("Address", "10.77.1.", "State", "Lost"):
        assert word in facts
    await _ask(browser, press(Keys.ESCAPE))
    assert not await watcher.look("return $('details').open")
    assert await watcher.look("return Number(document.activeElement.dataset.number)") == 1


async def _filters(watcher: _Watcher) -> None:
    visible = "return cells.filter((cell) => !cell.hidden).map((c) => c.firstChild.textContent)"
    await watcher.look("chips.get('failed').click()")
    assert await watcher.look(visible) == ["host-3"]
    await watcher.look("chips.get('failed').click()")
    await watcher.look(
        "$('search').value = 'HOST-2'; $('search').dispatchEvent(new Event('input'))"
    )
    assert await watcher.look(visible) == ["host-2"]
    await watcher.look("$('search').value = ''; $('search').dispatchEvent(new Event('input'))")
    assert len(await watcher.look(visible)) == 3
