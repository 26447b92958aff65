"""A browser and shared servers for the tests, and checks for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, sync_playwright

from tests.browser.chromium import FLAGS, executable
from tests.browser.models import served
from tests.integration.server.processes import Server

PATIENCE = 60_000
"""Milliseconds to wait for an expected state of the page."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless browser with a temporary profile. Its driver runs an event loop in this thread, so it must stop before
    tests of other modules start theirs."""
    path = executable()
    with sync_playwright() as playwright:
        home = {"XDG_CONFIG_HOME": str(tmp_path_factory.mktemp("chromium"))}  # for its crash reports
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS), env={**os.environ, **home})
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """The server of a model by name, started on first use."""
    folder, started = tmp_path_factory.mktemp("browser"), dict[str, Server]()
    with ExitStack() as stack:

        def get(name: str) -> Server:
            if name not in started:
                started[name] = stack.enter_context(served(name, folder))
            return started[name]

        yield get


@dataclass
class Visits:
    """Opens pages and records their errors and requests."""

    browser: Browser
    contexts: list[BrowserContext] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    expected: set[str] = field(default_factory=set)
    """Words of console errors that a test expects."""

    def __call__(self, server: Server, path: str = "/", *, clock: bool = False, **options: Any) -> Page:
        """Open a page in a new context with these ``options``; with ``clock``, a test can advance its time."""
        origin = f"http://127.0.0.1:{server.port}"
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        self.contexts.append(context)
        page = context.new_page()
        if clock:
            page.clock.install()
        page.on("console", lambda line: self.errors.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self._dismiss)
        page.on(
            "request",
            lambda sent: None if sent.url.startswith((origin, "data:")) else self.foreign.append(sent.url),
        )
        page.goto(origin + path)
        return page

    def _dismiss(self, dialog: Dialog) -> None:
        self.errors.append(f"a dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visits]:
    """Open pages. After each test, check that no request went to another origin and that the console has only errors
    that the test expects."""
    visits = Visits(browser)
    yield visits
    for context in visits.contexts:
        context.close()
    assert not visits.foreign
    assert [error for error in visits.errors if not any(words in error for words in visits.expected)] == []
