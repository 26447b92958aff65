"""Pages of other sites in the browser of somebody whose laptop serves a model: they can neither send nor read.

The names end with ``.test``; the browser resolves them to this machine, as a site does that attacks by DNS rebinding.
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.models import example
from tests.integration.server.processes import Server

pytestmark = pytest.mark.attack

SENT = """async ([url, body]) => {
    const types = [undefined, "text/plain", "application/x-www-form-urlencoded", "application/json"];
    const sent = types.map((type) => fetch(url, {
        method: "POST", body: new Blob([body], type ? { type } : {}), mode: type?.endsWith("json") ? "cors" : "no-cors",
    }));
    sent.push(fetch(url, { method: "POST", body: new URLSearchParams([[body, ""]]), mode: "no-cors" }));
    const answers = await Promise.allSettled(sent);
    navigator.sendBeacon(url, body);
    return Promise.all(answers.map(async ({ value }) => value ? value.type + await value.text() : "failed"));
}"""
FORM = """([url, body]) => {
    const form = document.createElement("form");
    Object.assign(form, { action: url, method: "POST", enctype: "text/plain" });
    const field = Object.assign(document.createElement("input"), { name: body.slice(0, -1), value: body.slice(-1) });
    form.append(field);
    document.body.append(form);
    form.submit();
}"""


@pytest.fixture(scope="module")
def other() -> Iterator[int]:
    """The port of a web server with an empty page."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def page(browser: Browser, other: int) -> Iterator[Page]:
    """A page of another site."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://evil.test:{other}/")
    yield page
    context.close()


def predicted(server: Server) -> float:
    """Return the number of requests that the model answered."""
    samples = server.samples()
    return sum(
        value
        for (name, labels), value in samples.items()
        if name == "mlmodel_requests_total" and ("code", "200") in labels
    )


def test_another_site_sends_nothing_and_reads_nothing(serve: Callable[[str], Server], page: Page) -> None:
    server = serve("iris")
    before = predicted(server)
    body = server.send("GET", "/v2/models/iris/example").body.decode()
    url = f"http://127.0.0.1:{server.port}/v2/models/iris/infer"
    assert page.evaluate(SENT, [url, body]) == ["opaque", "opaque", "opaque", "failed", "opaque"]
    page.evaluate(FORM, [url, body])
    page.wait_for_url(url)
    assert "a page of" in page.inner_text("body")
    assert "sent this request" in page.inner_text("body")
    assert predicted(server) == before, "no prediction was made"


def test_a_site_whose_name_resolves_to_the_laptop_reads_nothing(serve: Callable[[str], Server], page: Page) -> None:
    server = serve("iris")
    origin = f"http://evil.test:{server.port}"
    answer = page.goto(f"{origin}/")
    assert answer is not None
    assert answer.status == 403
    read = "async (url) => { const answer = await fetch(url); return [answer.status, await answer.text()]; }"
    for path in ("/v2/models/iris/stats", "/v2/models/iris/example", "/metrics", "/docs"):
        status, text = page.evaluate(read, origin + path)
        assert status == 403
        assert "the header Host is" in text
        assert "setosa" not in text
    assert example(server, "iris")
