"""A browser for all tests, servers for those that share one, and what must never happen on the page."""

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

PATIENCE = 15_000
"""Milliseconds for anything on the page to become as expected."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless, with a profile of its own that is gone afterwards. Its driver runs an event loop in this thread, so it
    must be gone before the tests of other modules begin theirs."""
    path = executable()
    with sync_playwright() as playwright:
        home = {"XDG_CONFIG_HOME": str(tmp_path_factory.mktemp("chromium"))}  # for its crash reports
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS), env={**os.environ, **home})
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """The server of a model by name, started when it is first asked for."""
    folder, started = tmp_path_factory.mktemp("browser"), dict[str, Server]()
    with ExitStack() as stack:

        def get(name: str) -> Server:
            if name not in started:
                started[name] = stack.enter_context(served(name, folder))
            return started[name]

        yield get


@dataclass
class Visits:
    """Opens pages and remembers what they did."""

    browser: Browser
    contexts: list[BrowserContext] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    expected: set[str] = field(default_factory=set)
    """Words of errors on the console that a test provokes."""

    def __call__(self, server: Server, path: str = "/", *, clock: bool = False, **options: Any) -> Page:
        """A page in a context of its own, whose ``options`` they are; with ``clock`` its time can be moved on."""
        origin = f"http://127.0.0.1:{server.port}"
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        self.contexts.append(context)
        page = context.new_page()
        if clock:
            page.clock.install()
        page.on("console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self._refuse)
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((origin, "data:")) else self.strangers.append(asked.url),
        )
        page.goto(origin + path)
        return page

    def _refuse(self, dialog: Dialog) -> None:
        self.errors.append(f"a dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visits]:
    """Opens a page. Whatever a test is about, nothing goes to another origin, and the console has no error that the
    test does not expect."""
    visits = Visits(browser)
    yield visits
    for context in visits.contexts:
        context.close()
    assert not visits.strangers
    assert [error for error in visits.errors if not any(words in error for words in visits.expected)] == []
