"""The page at ``/`` in a real browser: form, response, errors, feedback, live charts and API keys."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.browser.conftest import PATIENCE, Visits
from tests.browser.models import EVIL, EVIL_CLASS, EVIL_TEXT, KEY, example, post, served, stats
from tests.integration.server.processes import Server

Serve = Callable[[str], Server]

expect.set_options(timeout=PATIENCE)

VIRGINICA = ("6.3", "3.3", "6.0", "2.5")
OUTPUTS = [{"name": "predict"}, {"name": "predict_proba"}]


def predict(page: Page) -> None:
    """Press the button and wait for the response."""
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".predicted")).to_be_visible()


def fields(page: Page) -> list[str | bool]:
    """Return the values of the form."""
    controls = page.locator("#fields input, #fields textarea").all()
    return [one.is_checked() if one.get_attribute("type") == "checkbox" else one.input_value() for one in controls]


def drawn(page: Page, chart: str, shape: str) -> list[str]:
    """Return the current paths of the lines of a chart that have this class."""
    lines = page.locator(f"#{chart} .plot path.line.{shape}")
    return [line.get_attribute("d") or "" for line in lines.all()]


# The form and the response


@pytest.mark.parametrize("name", ["iris", "mixed", "tumour"])
def test_the_example_is_filled_in_and_predicted(serve: Serve, visit: Visits, name: str) -> None:
    server = serve(name)
    page, request = visit(server), example(server, name)
    expect(page.locator("h1")).to_have_text(name)
    values = [value for tensor in request["inputs"] for value in tensor["data"]]
    expect(page.locator("#fields .field")).to_have_count(len(values))
    assert fields(page) == [
        value if isinstance(value, (bool, str)) else str(value).removesuffix(".0") for value in values
    ]
    assert server.send("GET", f"/v2/models/{name}").json()["platform"] in page.locator("#facts").inner_text()

    predict(page)
    has_probabilities = name != "tumour"
    answer = post(server, name, request | {"outputs": OUTPUTS[: 1 + has_probabilities]})["outputs"]
    assert page.locator(".predicted").inner_text() == answer[0]["data"][0]
    if has_probabilities:
        classes = json.loads(server.send("GET", f"/v2/models/{name}").json()["properties"]["classes"])
        bars = page.locator("#answer .bars")
        displayed = zip(bars.locator(".name").all_inner_texts(), bars.locator(".value").all_inner_texts(), strict=True)
        assert dict(displayed) == {c: f"{100 * p:.1f} %" for c, p in zip(classes, answer[1]["data"], strict=True)}
        expect(page.locator(".bars .chosen")).to_have_text(answer[0]["data"][0])
    expect(page.locator("#took")).to_have_text(re.compile(r"^[\d.]+ (µs|ms|s), with the network$"))
    assert len(page.locator("#prediction").inner_text()) > 20


def test_typed_values_are_sent(serve: Serve, visit: Visits) -> None:
    page = visit(serve("iris"))
    for place, value in enumerate(VIRGINICA):
        page.locator(f"#field-0-{place}").fill(value)
    predict(page)
    expect(page.locator(".predicted")).to_have_text("virginica")
    page.get_by_role("button", name="Reset to the example").click()
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".predicted")).to_have_text("setosa")


def test_every_kind_of_column_has_its_kind_of_field(serve: Serve, visit: Visits) -> None:
    page = visit(serve("mixed"))
    expect(page.get_by_label("amount")).to_have_attribute("inputmode", "decimal")
    expect(page.get_by_role("checkbox", name="member")).to_be_visible()
    known = {option.get_attribute("value") for option in page.locator("#field-2-0-known option").all()}
    assert known == {"de", "fr", "it"}
    page.get_by_label("country").fill("xx")
    expect(page.locator("#field-2-0-hint")).to_have_text(re.compile("not in the training data"))
    page.get_by_label("amount").fill("100000")
    expect(page.locator("#field-0-0-hint")).to_have_text(re.compile("outside the training data"))


def test_a_checkbox_and_a_text_change_the_request(serve: Serve, visit: Visits) -> None:
    server = serve("mixed")
    page, request = visit(server), example(server, "mixed")
    page.get_by_role("checkbox", name="member").check()
    page.get_by_label("country").fill("it")
    predict(page)
    request["inputs"][2]["data"], request["inputs"][4]["data"] = ["it"], [True]
    answer = post(server, "mixed", request | {"outputs": OUTPUTS})["outputs"]
    expect(page.locator(".predicted")).to_have_text(answer[0]["data"][0])
    share = dict(zip(["no", "yes"], answer[1]["data"], strict=True))[answer[0]["data"][0]]
    expect(page.locator(".bars .chosen + .track + .value")).to_have_text(f"{100 * share:.1f} %")


@pytest.mark.parametrize("name", ["wide", "wide_table"])
def test_a_wide_row_is_one_text_area(serve: Serve, visit: Visits, name: str) -> None:
    server = serve(name)
    page, request = visit(server), example(server, name)
    expect(page.locator("#fields input")).to_have_count(0)
    predict(page)
    expect(page.locator(".predicted")).to_have_text(post(server, name, request)["outputs"][0]["data"][0])

    other = [-9.0 if place == 0 else 0.5 for place in range(64)]
    if name == "wide":
        page.locator("textarea").fill(" ".join(map(str, other)))
    else:
        page.locator("textarea").fill(json.dumps({f"c{place}": other[place] for place in range(60)}))
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".predicted")).to_have_text("down")

    visit.expected.add("400")
    page.locator("textarea").fill("1 2 nonsense" if name == "wide" else '{"c0": 1}')
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("textarea")).to_have_attribute("aria-invalid", "true")
    expect(page.locator(".wrong")).to_be_visible()


def test_contributions_of_the_features(serve: Serve, visit: Visits) -> None:
    server = serve("boosted")
    page, request = visit(server), example(server, "boosted")
    predict(page)
    assert fields(page) == ["5.1", "3.5", "1.4", "0.2"], "with as few digits as FP32 needs"
    outputs = [*OUTPUTS, {"name": "contributions"}]
    predicted, _, contributions = post(server, "boosted", request | {"outputs": outputs})["outputs"]
    parts = contributions["data"][predicted["data"][0] * 5 :][:4]
    bars = page.locator(".bars", has_text="Contributions of the features")
    expect(bars.locator(".name")).to_have_count(4)
    expect(bars.locator(".name").first).to_have_text(f"input-0[{max(range(4), key=lambda at: abs(parts[at]))}]")
    displayed = [float(text.replace("−", "-")) for text in bars.locator(".value").all_inner_texts()]
    assert displayed == pytest.approx(sorted(parts, key=abs, reverse=True), rel=1e-2)


def test_a_model_without_predictions(serve: Serve, visit: Visits) -> None:
    """Its outputs are shown unchanged; the sections about predictions are hidden."""
    page = visit(serve("plus_one"))
    expect(page.locator("#fields input")).to_have_count(4)
    for place, field in enumerate(page.locator("#fields input").all()):
        field.fill(str(place))
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#answer pre")).to_have_text("1, 2, 3, 4")
    expect(page.locator("#answer h3")).to_have_text("sum")
    for section in ("#feedback", "#quality", "#predictions", "#drift"):
        expect(page.locator(section)).to_be_hidden()


# Errors


def test_an_invalid_number_is_an_error_at_its_field(serve: Serve, visit: Visits) -> None:
    visit.expected.add("400")
    page = visit(serve("iris"))
    third = page.locator("#field-0-2")
    third.fill("abc")
    page.get_by_role("button", name="Predict").click()
    expect(third).to_have_attribute("aria-invalid", "true")
    expect(third).to_be_focused()
    expect(page.locator("#field-0-2-wrong")).to_have_text("This must be a number.")
    expect(page.locator("[aria-invalid]")).to_have_count(1)
    expect(page.get_by_role("alert").filter(has_text="input 'input-0'")).to_be_visible()
    third.fill("1.4")
    expect(page.locator("[aria-invalid]")).to_have_count(0)
    predict(page)
    expect(page.locator("#error")).to_be_hidden()


def test_an_error_of_the_server_is_shown_at_the_field_that_it_names(serve: Serve, visit: Visits) -> None:
    visit.expected.add("400")
    server = serve("mixed")
    page = visit(server)
    page.get_by_label("count", exact=True).fill("1.5")
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_label("count", exact=True)).to_have_attribute("aria-invalid", "true")
    expect(page.locator("[aria-invalid]")).to_have_count(1)
    request = example(server, "mixed")
    request["inputs"][1]["data"] = [1.5]
    message = server.send("POST", "/v2/models/mixed/infer", json.dumps(request)).json()["error"]
    expect(page.locator("#error")).to_contain_text(message)
    assert message.removeprefix("input 'count': ")[1:] in page.locator("#field-1-0-wrong").inner_text()


def test_a_row_on_which_the_model_fails(serve: Serve, visit: Visits) -> None:
    visit.expected.add("500")
    page = visit(serve("mixed"))
    page.get_by_label("country").fill("xx")
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_role("alert").filter(has_text="The server could not answer")).to_contain_text("ValueError")


def test_a_stopped_server(visit: Visits, tmp_path: Path) -> None:
    visit.expected.add("ERR_")
    with served("iris", tmp_path) as server:
        page = visit(server)
        expect(page.locator("#state")).to_have_text("responds")
        server.stop()
        expect(page.locator("#state")).to_have_text("does not respond")
        page.get_by_role("button", name="Predict").click()
        expect(page.locator("#error")).to_contain_text("does not respond")


# The request as curl


@pytest.mark.parametrize("name", ["mixed", "hostile"])
def test_the_curl_command_sends_the_same_request(serve: Serve, visit: Visits, name: str) -> None:
    page = visit(serve(name), permissions=["clipboard-read", "clipboard-write"])
    page.get_by_text("This request as curl").click()
    page.locator('[data-of="curl"]').click()
    expect(page.locator('[data-of="curl"]')).to_have_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == page.locator("#curl").inner_text()
    printed = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60).stdout
    predict(page)
    expect(page.locator(".predicted")).to_have_text(json.loads(printed)["outputs"][0]["data"][0])
    assert json.loads(page.locator("#json").inner_text())["outputs"] == OUTPUTS


# Feedback


def test_feedback_counts(visit: Visits, tmp_path: Path) -> None:
    with served("iris", tmp_path) as server:
        page = visit(server)
        predict(page)
        page.get_by_role("button", name="Yes, setosa").click()
        expect(page.get_by_text("Counted.")).to_be_visible()
        expect(page.locator("#live-accuracy")).to_have_text(re.compile("^1, 95 % interval"))
        predict(page)
        page.get_by_label("Actual class").select_option("virginica")
        page.get_by_role("button", name="No, it was").click()
        expect(page.locator("#live-accuracy")).to_have_text(re.compile("^0.5, 95 % interval 0.095 to 0.91"))
        (found,) = stats(server, "iris")["feedback"]
        assert (found["labels"], found["scores"]["accuracy"]) == (2, 0.5)
        expect(page.locator("#scores")).to_contain_text("at training")


def test_feedback_of_a_number(serve: Serve, visit: Visits) -> None:
    visit.expected.add("400")
    page = visit(serve("line"))
    page.get_by_label("x").fill("10")
    predict(page)
    expect(page.locator(".predicted")).to_have_text("20")
    page.get_by_label("Actual value").fill("much")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#feedback")).to_contain_text("must be a number")
    page.get_by_label("Actual value").fill("23")
    page.get_by_label("Actual value").press("Enter")
    expect(page.get_by_text("Counted.")).to_be_visible()
    expect(page.locator("#live-mae")).to_have_text("3")


# Live


def test_the_charts_follow_traffic(visit: Visits, tmp_path: Path) -> None:
    with served("iris", tmp_path) as server:
        page = visit(server)
        latency = page.get_by_role("img", name=re.compile("^Latency"))
        expect(latency).to_have_attribute("aria-label", re.compile("p50 –, p95 –, p99 –"))
        assert not drawn(page, "latency", "p50")
        request = example(server, "iris")
        connection = server.connect()
        body = json.dumps(request)
        for _ in range(200):
            assert server.send("POST", "/v2/models/iris/infer", body, connection).status == 200
        expect(latency).to_have_attribute("aria-label", re.compile(r"p50 [\d.]+ (µs|ms), p95 [\d.]+ (µs|ms), p99"))
        expect(page.locator("#rate")).to_contain_text("200 in")
        expect(page.locator("#latency .plot .p99")).to_have_count(1)
        traffic = page.get_by_role("img", name=re.compile("^Requests per second"))
        before = traffic.inner_html()
        server.send("POST", "/v2/models/iris/infer", "nonsense", connection)
        expect(page.locator("#rejected")).to_contain_text("1")
        assert traffic.inner_html() != before
        page.get_by_label("computing").check()
        computing = latency.get_attribute("aria-label")
        page.get_by_label("the whole request").check()
        assert latency.get_attribute("aria-label") != computing
        assert "computing" in page.locator("#split").inner_text()
        connection.close()


def test_drift_is_drawn_after_enough_rows(visit: Visits, tmp_path: Path) -> None:
    with served("iris", tmp_path) as server:
        page = visit(server)
        first = page.locator("#features li").first
        expect(first.locator(".verdict")).to_have_text("not enough rows yet: 0 of 1,000")
        expect(first.locator(".psi rect")).to_have_count(1)
        rows = [row for _ in range(1000) for row in (9.0, 3.0, 4.0, 1.3)]
        tensor = {"name": "input-0", "shape": [1000, 4], "datatype": "FP64", "data": rows}
        post(server, "iris", {"inputs": [tensor]})
        expect(first.locator(".verdict")).to_have_text(re.compile(r"^has changed \(PSI \d"))
        expect(first.locator(".psi rect.bad")).to_have_count(1)
        first.locator("summary").click()
        expect(first.get_by_role("listitem").filter(has_text="above")).to_contain_text("0.0 % → 100.0 %")
        expect(page.locator("#predictions")).to_contain_text("→ 100.0 %")
        expect(page.locator("#predictions .verdict")).to_contain_text("Has changed")


def test_a_hidden_page_sends_no_requests(serve: Serve, visit: Visits) -> None:
    page = visit(serve("iris"), clock=True)
    expect(page.locator("#state")).to_have_text("responds")
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page.evaluate("live.now()")
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request))
    page.clock.run_for(20_000)
    page.evaluate("0")  # process the events of all requests sent so far
    assert not sent
    with page.expect_response(lambda answer: answer.url.endswith("/stats")):
        page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.evaluate("live.now()")
    with page.expect_response(lambda answer: answer.url.endswith("/stats")):
        page.clock.run_for(3_000)


def test_several_replicas_and_versions_at_one_address(serve: Serve, visit: Visits) -> None:
    """Each replica has its own counts: the charts add them up, and no rate is negative."""
    server = serve("iris")
    found, turns = stats(server, "iris"), iter(range(10_000))

    def answer(route: Route) -> None:
        turn = next(turns)
        replica = {**found, "since": turn % 2, "requests": {"200": 1000 * (1 + turn % 2) + 10 * turn}}
        if turn % 5 == 4:
            replica |= {"revision": "other", "version": "v9"}
        route.fulfill(json=replica)

    context = visit(server)
    context.route("**/stats", answer)
    expect(context.locator("#live-note")).to_contain_text("Version v9 answers some requests too.")
    expect(context.locator("#live-note")).to_contain_text("replicas answer")
    rates = context.evaluate("live.steps.map((step) => step.all)")
    assert rates
    assert all(0 <= rate < 1000 for rate in rates)


# API keys


def test_an_api_key_is_required_used_and_not_stored(serve: Serve, visit: Visits) -> None:
    visit.expected.add("401")
    page = visit(serve("keyed"))
    expect(page.get_by_role("heading", name="API key required")).to_be_visible()
    expect(page.locator("#try")).to_be_hidden()
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#key-error")).to_contain_text("not known")
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    predict(page)
    expect(page.locator("#key")).to_be_hidden()
    expect(page.locator("#state")).to_have_text("responds")
    curl = page.locator("#curl").text_content() or ""
    assert "Bearer $KEY" in curl
    assert KEY not in page.locator("body").inner_html()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]

    page.get_by_role("link", name="How to send requests").click()
    expect(page.locator("dialog")).to_contain_text("/invocations")
    page.keyboard.press("Escape")
    page.reload()
    expect(page.get_by_role("heading", name="API key required")).to_be_visible()


# HTML in names


def test_html_in_names_is_shown_as_text(serve: Serve, visit: Visits) -> None:
    server = serve("hostile")
    page = visit(server)
    expect(page.get_by_label(EVIL, exact=True)).to_be_visible()
    page.get_by_label(EVIL, exact=True).fill(EVIL_TEXT)
    predict(page)
    expect(page.locator(".predicted")).to_have_text(EVIL_CLASS)
    page.get_by_role("button", name=f"Yes, {EVIL_CLASS}").click()
    expect(page.get_by_text("Counted.")).to_be_visible()
    expect(page.locator("#features .name").first).to_have_text(EVIL)
    expect(page.locator("#predicted")).to_contain_text(EVIL_CLASS)
    visit.expected.add("400")
    for place in (page, visit(server, "/docs")):
        assert place.locator("img, b:has-text('bold')").count() == 0
        assert EVIL in place.locator("body").inner_text()


# Accessibility


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours such as ``rgb(1, 2, 3)``, as defined in WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_contrast_is_sufficient_in_light_and_dark_mode(serve: Serve, visit: Visits, scheme: Any) -> None:
    visit.expected.add("400")
    page = visit(serve("iris"), color_scheme=scheme)
    page.locator("#field-0-0").fill("x")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".wrong:visible")).to_have_count(1)
    page.locator("#field-0-0").fill("1000")
    predict(page)
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (contrast(back, "rgb(0, 0, 0)") < contrast(back, "rgb(255, 255, 255)")) == (scheme == "dark")
    colours = page.evaluate(
        """[...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() && !one.closest("svg")
             && [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim())).map((one) => {
          const back = (element) => getComputedStyle(element).backgroundColor;
          let behind = one;
          while (back(behind) === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
          return [one.textContent.trim().slice(0, 40), getComputedStyle(one).color, back(behind)];
        })"""
    )
    ratios = {text: contrast(front, behind) for text, front, behind in colours if behind.startswith("rgb(")}
    assert len(ratios) > 40
    assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("name", ["iris", "mixed", "tumour", "hostile", "wide"])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_it_fits_a_phone(serve: Serve, visit: Visits, name: str, path: str) -> None:
    page = visit(serve(name), path, viewport={"width": 360, "height": 740})
    if path == "/":
        predict(page)
        page.get_by_text("This request as curl").click()
        page.locator("#features summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_it_works_with_the_keyboard_only(serve: Serve, visit: Visits) -> None:
    page = visit(serve("iris"))
    expect(page.locator("#try")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the form")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "field-0-0":
            break
    expect(page.locator("#field-0-0")).to_be_focused()
    page.keyboard.type("6.3")
    page.keyboard.press("Enter")
    expect(page.locator(".predicted")).to_be_visible()


@pytest.mark.parametrize("name", ["mixed", "wide", "line"])
def test_every_control_has_an_accessible_name(serve: Serve, visit: Visits, name: str) -> None:
    """Screen readers read these names."""
    page = visit(serve(name))
    predict(page)
    nameless = page.evaluate(
        """[...document.querySelectorAll("input, select, textarea, button, a, svg[role=img]")]
           .filter((one) => !one.labels?.length && !one.textContent.trim() && !one.getAttribute("aria-label"))
           .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    headings = [
        int(one) for one in page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((h) => h.tagName[1])")
    ]
    assert headings.count(1) == 1
    described = page.evaluate(
        """[...document.querySelectorAll("[aria-describedby]")]
           .flatMap((one) => one.getAttribute("aria-describedby").split(" "))
           .filter((id) => !document.getElementById(id))"""
    )
    assert described == []
