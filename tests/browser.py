"""A real browser for the tests and the pictures: headless Chromium on a host of a lab.

Selenium waits, so it has a thread of its own. That thread enters the host's network namespace
first, and with it whatever it opens and starts: the driver, the browser, the way to both.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000  # of setns(2)
_NAMESPACES = Path("/run/netns")
_DRIVERS = ("chromedriver",)
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def missing() -> str | None:
    """None where a browser can be started, else what is not installed."""
    absent = [names[0] for names in (_BROWSERS, _DRIVERS) if _which(names) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


class Browser:
    """One window of so many pixels, on the host of `namespace`; None for this one.

    `folder` is for the browser's own files.
    """

    def __init__(
        self,
        folder: Path,
        namespace: str | None = None,
        *,
        size: tuple[int, int] = (1280, 900),
        dark: bool = False,
        phone: bool = False,
    ) -> None:
        self._folder = folder
        self._namespace = namespace
        self._size = size
        self._dark = dark
        self._phone = phone
        self._driver: Any = None
        self._is_closed = False
        self._thread = ThreadPoolExecutor(1, "browser", self._enter)

    def ask(self, question: Callable[[Any], _T]) -> Future[_T]:
        """What `question` finds out with the driver, as soon as it is its turn."""
        return self._thread.submit(lambda: question(self._open()))

    def close(self) -> None:
        """End the browser and wait for that; once it has ended, a no-op."""
        if not self._is_closed:
            self._is_closed = True
            self._thread.submit(self._quit).result()
            self._thread.shutdown()

    # In the thread.

    def _enter(self) -> None:
        if self._namespace is None:
            return
        fd = os.open(_NAMESPACES / self._namespace, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot enter the namespace")
        finally:
            os.close(fd)

    def _open(self) -> Any:
        if self._driver is None:
            self._driver = self._start()
        return self._driver

    def _start(self) -> Any:
        options = Options()
        options.binary_location = _which(_BROWSERS) or ""
        width, height = self._size
        for word in (
            "headless=new",
            "no-sandbox",  # which wants another user than root
            "disable-dev-shm-usage",
            "disable-gpu",
            "no-first-run",
            "disable-background-networking",
            "hide-scrollbars",
            f"window-size={width},{height}",
            f"user-data-dir={self._folder / 'profile'}",
        ):
            options.add_argument(f"--{word}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        environment = {**os.environ, "HOME": str(self._folder), "TMPDIR": str(self._folder)}
        service = Service(_which(_DRIVERS), env=environment)
        driver = webdriver.Chrome(options=options, service=service)
        scheme = "dark" if self._dark else "light"
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": self._phone}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        return driver

    def _quit(self) -> None:
        if self._driver is not None:
            self._driver.quit()


def _which(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)
