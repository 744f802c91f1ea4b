"""The page as a person sees it: a real Chromium, driven by Playwright, on a real server over gRPC."""

from __future__ import annotations

import csv
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from ladders import serve_three_steps

from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.data.dataset import Dataset
from recsys.data.options import PrepareOptions
from recsys.data.prepare import prepare
from recsys.testing import small_towers
from serving.client import Client
from serving.explorer.app import Sources, make_app
from serving.explorer.names import BundleNames
from serving.explorer.traffic import TrafficPage
from serving.explorer.verb import listening
from serving.metrics import exported
from serving.server import Server
from serving.settings import ServerSettings

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path (Debian: apt-get install chromium)")
playwright = pytest.importorskip("playwright.sync_api")

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
SLOW_MS = 30_000


@dataclass(kw_only=True)
class Visit:
    """One page that is looked at, what its console said and which hosts it asked."""

    page: playwright.Page
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.locator("#lists li").first.wait_for()

    def marks(self, kind: str, mark: str):
        return self.page.locator(f"#lists .{kind} li.{mark}")

    def drag_to(self, place: int) -> None:
        self.page.locator("#amount").fill(str(place))

    def says(self, selector: str, text: str | re.Pattern[str]) -> None:
        playwright.expect(self.page.locator(selector)).to_contain_text(text)


@pytest.fixture(scope="module")
def browser():
    # Chromium's sandbox does not work for root, as whom containers run tests.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    playwright.expect.set_options(timeout=SLOW_MS)
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=arguments)


@contextmanager
def visiting(browser, *, complains: bool = False, **settings):
    """Look at pages in a context of their own; afterwards nothing may have been complained of or fetched elsewhere."""
    with browser.new_context(**settings) as context:
        context.set_default_timeout(SLOW_MS)
        visit = Visit(page=context.new_page())
        visit.page.on(
            "console", lambda message: visit.complaints.append(message.text) if message.type != "log" else None
        )
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.on("request", lambda request: visit.hosts.add(urlsplit(request.url).hostname))
        yield visit
    assert visit.hosts <= {"127.0.0.1"}
    if not complains:
        assert visit.complaints == []


@pytest.fixture(scope="module")
def server(bundles):
    with Server(ServerSettings(bundles=bundles, port=0, workers=2)) as running:
        serve_three_steps(running.live.engine)
        yield running


@pytest.fixture(scope="module")
def url(server, client, bundles):
    with exported(server.metrics, host="127.0.0.1", port=0) as port:
        traffic = TrafficPage(f"http://127.0.0.1:{port}/metrics")
        app = make_app(Sources(client=client, names=BundleNames(bundles), traffic=traffic), hosts=["127.0.0.1"])
        with listening(app, host="127.0.0.1", port=0) as url:
            yield url


@pytest.fixture
def visit(browser, url):
    with visiting(browser, viewport={"width": 1280, "height": 900}) as visit:
        yield visit


class TestUsers:
    def test_an_answer_is_there_at_once(self, visit, url):
        visit.open(url)
        assert visit.page.locator("#lists .answer li").count() == 10
        assert visit.page.locator("#lists .truth li").count() == 10
        visit.says("#service", "1,000 items to 60 users, at widths 4, 8, 16")
        assert visit.page.locator("#ladder .rung").count() == 3
        assert visit.page.locator("#ladder .chosen").count() == 1
        visit.says("#stages", "encode the user")
        visit.says("#past", "called")

    def test_a_user_is_found_with_the_keyboard_alone(self, visit, url, client):
        visit.open(url)
        visit.page.keyboard.press("Tab")  # the choice of whom to ask for
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement.id") == "user"
        visit.page.keyboard.type("u17")
        visit.page.locator("#user-list li", has_text="u17").wait_for()
        visit.page.keyboard.press("ArrowDown")
        visit.page.keyboard.press("Enter")
        assert not visit.page.locator("#user-list").is_visible()
        playwright.expect(visit.page).to_have_url(re.compile("id=u17"))
        truth = client.recommend(user_id="u17", k=10, width=16, include_titles=True)
        playwright.expect(visit.page.locator("#lists .truth .item")).to_have_text([item.title for item in truth.items])

    def test_an_unknown_user_gets_the_cold_answer_and_is_told_so(self, visit, url):
        visit.open(url)
        visit.page.locator("#user").fill("nobody")
        visit.page.keyboard.press("Enter")
        visit.says("#verdict", "Nothing is known of their past")

    def test_an_address_brings_back_what_was_looked_at(self, visit, url):
        visit.open(f"{url}?id=u9&k=5&width=8")
        assert visit.page.locator("#user").input_value() == "u9"
        assert visit.page.locator("#lists .answer li").count() == 5
        visit.says("#amount-shown", "8 of 16")


class TestBudgets:
    def test_the_slider_changes_the_rung_and_the_marks(self, visit, url):
        visit.open(url)
        visit.drag_to(100)
        visit.says("#verdict", "16 of 16")
        playwright.expect(visit.marks("answer", "kept")).to_have_count(10)
        playwright.expect(visit.marks("truth", "lost")).to_have_count(0)
        chosen = visit.page.locator("#ladder .chosen")
        playwright.expect(chosen).to_have_attribute("data-rung", "exact16")
        visit.drag_to(40)
        visit.says("#verdict", "4 of 16")
        playwright.expect(chosen).to_have_attribute("data-rung", re.compile("^ivf4"))
        lost = visit.marks("truth", "lost").count()
        assert 0 < lost == visit.marks("answer", "gained").count()
        visit.says("#verdict", f"{10 - lost} of 10")
        visit.says("#lists .truth .tally", f"{lost} lost")

    def test_a_time_that_nothing_can_meet_is_told(self, visit, url):
        visit.open(url)
        visit.drag_to(0)
        visit.says("#verdict", "Not even the cheapest rung fits")

    def test_a_width_or_an_overlap_may_be_asked_for_instead(self, visit, url):
        visit.open(url)
        visit.page.get_by_role("radio", name="Width").check()
        visit.says("#amount-shown", "4 of 16")
        visit.page.locator("#amount").press("ArrowRight")
        visit.says("#verdict", "8 of 16")
        visit.page.get_by_role("radio", name="Overlap floor").check()
        visit.says("#verdict", "4 of 16")
        visit.page.locator("#amount").press("End")
        visit.says("#amount-shown", "1")
        visit.says("#verdict", "16 of 16")

    def test_more_items_may_be_asked_for(self, visit, url):
        visit.open(url)
        visit.page.locator("#k").select_option("50")
        playwright.expect(visit.page.locator("#lists .answer li")).to_have_count(50)

    def test_only_some_items_may_be_asked_for(self, visit, url):
        visit.open(f"{url}?id=u9&width=16")
        visit.page.locator("#only").fill("west")
        visit.page.locator("#only-list li", has_text="western").click()
        playwright.expect(visit.page.locator("#lists .item")).to_have_text([re.compile("^A western")] * 20)
        visit.page.get_by_role("button", name="Remove genre: western").click()
        playwright.expect(visit.page.locator("#only-chosen li")).to_have_count(0)


class TestHistories:
    def test_a_history_built_from_titles_gets_an_answer(self, visit, url, client):
        visit.open(url)
        visit.page.get_by_role("radio", name="Somebody new").check()
        visit.says("#verdict", "Nothing is known of their past")
        for number, title in (("7", "called 7"), ("12", "called 12")):
            visit.page.locator("#title").fill(title)
            visit.page.locator("#title-list li span", has_text=re.compile(f"called {number}$")).click()
        playwright.expect(visit.page.locator("#history li")).to_have_count(2)
        truth = client.recommend(history=["i7", "i12"], k=10, width=16, include_titles=True)
        playwright.expect(visit.page.locator("#lists .truth .item")).to_have_text([item.title for item in truth.items])
        visit.page.get_by_role("button", name=re.compile(r"Remove .* 7$")).click()
        truth = client.recommend(history=["i12"], k=10, width=16, include_titles=True)
        playwright.expect(visit.page.locator("#lists .truth .item")).to_have_text([item.title for item in truth.items])

    def test_similar_items_open_and_may_be_put_into_a_history(self, visit, url, client):
        visit.open(f"{url}?id=u9&width=16")
        first = visit.page.locator("#lists .truth .item").first
        title = first.text_content()
        first.press("Enter")
        visit.says("#similar-title", title)
        item = next(item.item_id for item in client.recommend(user_id="u9", k=1, width=16, include_titles=True).items)
        near = client.similar_items(item, k=10, width=16, include_titles=True)
        playwright.expect(visit.page.locator("#similar .truth .item")).to_have_text([item.title for item in near.items])
        visit.page.keyboard.press("Escape")
        assert not visit.page.locator("#similar").is_visible()
        first.click()
        visit.page.get_by_role("button", name="Add it to a new history").click()
        playwright.expect(visit.page.locator("#history li")).to_have_text([re.compile(re.escape(title))])


class TestEverywhere:
    def test_what_the_server_does_now_is_shown(self, visit, url):
        visit.open(url)
        visit.says("#traffic", "Widths chosen")
        visit.says("#traffic", re.compile(r"p99\s*[\d.]+ ms"))

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_a_phone_needs_no_scrolling_to_the_side(self, browser, url, scheme):
        with visiting(browser, color_scheme=scheme, **PHONE) as visit:
            visit.open(url)
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
            visit.page.locator("#lists .item").first.tap()
            visit.page.locator("#similar-lists li").first.wait_for()
            assert visit.page.evaluate("document.getElementById('similar').scrollWidth") <= 360

    def test_dark_and_light_differ_and_both_can_be_read(self, browser, url):
        grounds = {}
        for scheme in ("light", "dark"):
            with visiting(browser, color_scheme=scheme) as visit:
                visit.open(url)
                colours = visit.page.evaluate("""() => ['.quiet', '.lost .mark', '.gained .mark', '.item', '.notice']
                    .flatMap((one) => [...document.querySelectorAll(one)]).map((one) => {
                        let under = one;
                        const solid = (e) => getComputedStyle(e).backgroundColor;
                        while (solid(under) === 'rgba(0, 0, 0, 0)' && under.parentElement) under = under.parentElement;
                        return [one.className, getComputedStyle(one).color, solid(under)];
                    })""")
                grounds[scheme] = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
                for name, ink, ground in colours:
                    assert contrast(ink, ground) >= 4.5, (scheme, name, ink, ground)
        assert grounds["light"] != grounds["dark"]

    def test_a_stopped_server_is_told_and_found_again(self, browser, bundles):
        with (
            Server(ServerSettings(bundles=bundles, port=0, workers=2)) as server,
            Client(server.address, deadline_ms=5000) as client,
            listening(make_app(Sources(client=client), hosts=["127.0.0.1"]), host="127.0.0.1", port=0) as url,
            visiting(browser, complains=True) as visit,
        ):
            visit.open(f"{url}?id=u1&width=16")
            server.stop()
            visit.drag_to(0)
            visit.says("#problem", f"The server at {server.address} does not answer. Is it running?")
            assert visit.page.get_by_role("alert").is_visible()
            with Server(ServerSettings(bundles=bundles, port=server.port, workers=2)):
                visit.page.locator("#problem").wait_for(state="hidden")
            # A browser notes every response with an error's status; nothing else may have been said.
            assert all("503" in complaint for complaint in visit.complaints)


HOSTILE = (
    "<script>window.hit = 1</script>",
    '"><img src=x onerror="window.hit = 1">',
    "<b>bold</b> & 'quoted' \\u003c",
)


def test_hostile_titles_and_ids_are_inert(browser, tmp_path):
    items = [f"{row}{HOSTILE[row % 3]}" for row in range(60)]
    users = [f"{HOSTILE[row % 3]}{row}" for row in range(20)]
    with (tmp_path / "log.csv").open("w") as log, (tmp_path / "items.csv").open("w") as table:
        events, catalogue = csv.writer(log), csv.writer(table)
        events.writerow(["user_id", "item_id", "time"])
        catalogue.writerow(["item_id", "title"])
        catalogue.writerows((item, f"film {item}") for item in items)
        for row, user in enumerate(users):
            events.writerows((user, items[(7 * row + step) % 60], step) for step in range(8))
    options = PrepareOptions(
        out=tmp_path / "dataset", interactions=str(tmp_path / "log.csv"), time_column="time",
        items=tmp_path / "items.csv", title_column="title", protocol="leave-last-out",
    )  # fmt: skip
    dataset = Dataset(prepare(options))
    bundles = tmp_path / "bundles"
    write_bundle(
        bundles, towers=small_towers(dataset), dataset=dataset, options=PublishOptions(num_queries=8, repeats=1)
    )
    with (
        Server(ServerSettings(bundles=bundles, port=0, workers=2)) as server,
        Client(server.address, deadline_ms=10_000) as client,
        listening(
            make_app(Sources(client=client, names=BundleNames(bundles)), hosts=["127.0.0.1"]), host="127.0.0.1", port=0
        ) as url,
        visiting(browser) as visit,
    ):
        visit.open(url)
        visit.page.locator("#user").fill("<script>")
        visit.page.locator("#user-list li").first.click()
        playwright.expect(visit.page).to_have_url(re.compile("id=%3Cscript%3E"))
        visit.says("#lists", "onerror")
        visit.page.locator("#lists .item").filter(has_text="onerror").first.click()
        visit.says("#similar-title", "onerror")
        visit.says("#similar-lists", "<script>")
        visit.page.get_by_role("button", name="Add it to a new history").click()
        visit.says("#history", "onerror")
        assert visit.page.evaluate("window.hit") is None
        assert visit.page.locator("main img, main script, main b, dialog img").count() == 0


def contrast(ink: str, ground: str) -> float:
    """The contrast of two CSS colours, as WCAG 2 defines it: 4.5 is what text needs."""

    def luminance(colour: str) -> float:
        channels = [float(each) / 255 for each in re.findall(r"[\d.]+", colour)[:3]]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(ink), luminance(ground)))
    return (high + 0.05) / (low + 0.05)
