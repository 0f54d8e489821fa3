"""The report in a real browser: headless Chromium, without a network."""

import json
import shutil
import time

import pytest

from siamkit.api.reports import write_report

from .conftest import HOSTILE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def address(hostile_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(hostile_run, path)
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    """The report at desktop width, ready."""
    return opened(browser, address, 1440)


def opened(browser, address, width, scheme="light"):
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    cdp = browser.execute_cdp_cmd
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    cdp("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    cdp("Emulation.setEmulatedMedia", {"features": features})
    browser.get(address)
    wait(browser, "return document.documentElement.dataset.ready === 'yes'")
    return browser


def wait(browser, script, *arguments):
    end = time.monotonic() + 30
    while not (found := browser.execute_script(script, *arguments)):
        assert time.monotonic() < end, script
        time.sleep(0.05)
    return found


TIP = """
const tip = document.getElementById("tip"), image = tip.querySelector("img");
return tip.hidden || !image.complete ? null : {
  label: tip.querySelector("strong").textContent, file: tip.querySelector(".file").textContent,
  verdict: tip.querySelector(".nearest").textContent, src: image.src.slice(0, 23),
  pixels: image.naturalWidth, tags: tip.querySelectorAll("strong *, .file *").length,
  box: tip.getBoundingClientRect().toJSON(),
};"""

PLACE = """
const view = document.getElementById("map-view");
view.scrollIntoView({ block: "center", behavior: "instant" });
const item = JSON.parse(document.getElementById("items").textContent)[arguments[0]];
const { xaxis, yaxis } = view._fullLayout, box = view.getBoundingClientRect();
return [box.left + xaxis._offset + xaxis.d2p(item.x), box.top + yaxis._offset + yaxis.d2p(item.y),
        item.name];"""


ALONE = """
const items = JSON.parse(document.getElementById("items").textContent);
const room = items.map((a) => Math.min(...items.map(
  (b) => a === b ? Infinity : Math.hypot(a.x - b.x, a.y - b.y))));
return room.indexOf(Math.max(...room));"""
"""The number of the image with the most room around it."""


def move(browser, x, y):
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (375, "dark")])
def test_it_opens_without_an_error_or_a_request(browser, address, width, scheme):
    page = opened(browser, address, width, scheme)
    assert [entry for entry in page.get_log("browser") if entry["level"] != "INFO"] == []
    messages = (json.loads(e["message"])["message"] for e in page.get_log("performance"))
    asked = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    outside = [a["request"]["url"] for a in asked if not a["request"]["url"].startswith("data:")]
    assert set(outside) <= {address, "about:blank"} and address in outside
    sizes = page.execute_script(
        "const root = document.documentElement; return [root.scrollWidth, root.clientWidth]"
    )
    assert sizes[0] <= sizes[1], "the page scrolls sideways"


def test_every_chart_is_drawn(page):
    charts = page.execute_script(
        """return [...document.querySelectorAll("[data-chart]")].map((plot) => {
          const svg = plot.querySelector(".main-svg");
          return [plot.dataset.chart, svg ? svg.getBoundingClientRect().width : 0,
                  plot.querySelectorAll(".main-svg path").length];
        });"""
    )
    assert {name for name, _, _ in charts} == {
        "loss", "metric-recall-1", "metric-map-r", "plan", "rates", "time", "scores", "det",
        "roc", "map",
    }  # fmt: skip
    assert all(width > 300 and paths > 2 for _, width, paths in charts), charts


@pytest.mark.slow
def test_charts_take_the_colours_of_the_scheme(browser, address):
    script = """return [getComputedStyle(document.querySelector(".xtick text")).fill,
                        getComputedStyle(document.querySelector(".xtitle")).fill,
                        getComputedStyle(document.body).backgroundColor]"""
    light = opened(browser, address, 800, "light").execute_script(script)
    dark = opened(browser, address, 800, "dark").execute_script(script)
    assert all(a != b for a, b in zip(light, dark, strict=True))


def test_pointing_at_the_map_shows_the_image(page):
    x, y, name = page.execute_script(PLACE, page.execute_script(ALONE))
    move(page, x - 40, y - 40)
    move(page, x, y)
    tip = wait(page, TIP)
    assert tip["file"] == name and tip["label"] in HOSTILE
    assert tip["src"] == "data:image/webp;base64," and tip["pixels"] > 0
    assert tip["verdict"].startswith("nearest image:")
    assert tip["tags"] == 0
    move(page, 5, 5)
    wait(page, "return document.getElementById('tip').hidden")


def test_the_tip_stays_on_a_small_screen(browser, address):
    page = opened(browser, address, 375)
    for number in range(0, 24, 5):
        x, y, _ = page.execute_script(PLACE, number)
        move(page, x, y)
        box = wait(page, TIP)["box"]
        assert box["left"] >= 0 and box["right"] <= 375


@pytest.mark.slow
def test_the_map_is_walked_with_the_keyboard(page):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    choice = page.find_element(By.ID, "class")
    view = page.find_element(By.ID, "map-view")
    page.execute_script("arguments[0].focus()", choice)
    choice.send_keys(Keys.TAB)
    assert page.switch_to.active_element == view
    seen = {wait(page, TIP)["file"]}
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_DOWN) * 2:
        view.send_keys(key)
        seen.add(wait(page, TIP)["file"])
    assert len(seen) >= 3
    status = page.find_element(By.ID, "map-status").get_property("textContent")
    assert wait(page, TIP)["label"] in status
    view.send_keys(Keys.ENTER)
    marked = page.execute_script("return document.getElementById('map-view').data[3].x.length")
    assert marked == 6 and choice.get_property("value") != ""
    view.send_keys(Keys.ESCAPE)
    wait(page, "return document.getElementById('tip').hidden")
    assert choice.get_property("value") == ""
    for _ in range(60):  # there are fewer images: the last arrows find none further left
        view.send_keys(Keys.ARROW_LEFT)
    edge = wait(page, TIP)["file"]
    view.send_keys(Keys.ESCAPE)
    wait(page, "return document.getElementById('tip').hidden")
    view.send_keys(Keys.ARROW_LEFT)
    assert wait(page, TIP)["file"] == edge
    view.send_keys(Keys.TAB)
    wait(page, "return document.getElementById('tip').hidden")


def test_the_first_tab_leads_to_the_results(page):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the results"


def test_names_that_would_be_code_are_text(page):
    labels = page.execute_script(
        "return [...document.querySelectorAll('#class option')].slice(1).map((o) => o.text)"
    )
    assert sorted(labels) == sorted(HOSTILE)
    foreign = page.execute_script(
        """return document.querySelectorAll(
          "[onerror], [onload], img[src='x'], figcaption b, .name b, option *").length"""
    )
    assert foreign == 0
    assert page.execute_script("return document.scripts.length") == 6  # ours, and plotly unpacked


def test_no_script_but_ours_runs_even_if_one_got_in(page):
    page.execute_script(
        """document.body.insertAdjacentHTML("beforeend",
             "<img src=x onerror='window.hacked = 1'><a id=bad href='javascript:hacked=2'>x</a>");
           const script = document.createElement("script");
           script.textContent = "window.hacked = 3";
           document.body.append(script);
           document.getElementById("bad").click();"""
    )
    time.sleep(0.2)
    assert page.execute_script("return window.hacked === undefined")
    blocked = [e for e in page.get_log("browser") if "Content Security Policy" in e["message"]]
    assert len(blocked) >= 3


# --- layout ---------------------------------------------------------------------------------------

OVERLAPS = """
const boxes = (plot) => [...plot.querySelectorAll(
  ".xtick text, .ytick text, .xtitle, .ytitle, .x2title, .y2title, .annotation-text, .bartext"
)].filter((text) => text.textContent && getComputedStyle(text).display !== "none"
).map((text) => [text.textContent, text.getBoundingClientRect()]).filter(([, box]) => box.width);
const found = [];
for (const plot of document.querySelectorAll("[data-chart]")) {
  const all = boxes(plot);
  all.forEach(([name, a], i) => all.slice(i + 1).forEach(([other, b]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const along = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1 && along > 1) found.push([plot.dataset.chart, name, other]);
  }));
}
return found;"""
"""Texts of a chart whose boxes overlap."""

SMALL = """
const size = (element) => {
  const scale = element.getScreenCTM ? Math.hypot(element.getScreenCTM().a,
    element.getScreenCTM().b) : 1;
  return scale * parseFloat(getComputedStyle(element).fontSize);
};
const seen = (element) => element.checkVisibility() && !element.closest(".unseen, .main-svg defs")
  && element.getBoundingClientRect().width > 1;
const own = (element) => [...element.childNodes].some(
  (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
return [...document.body.querySelectorAll("*")].filter(
  (e) => !e.closest("script, style, .swatch, option") && own(e) && seen(e) && size(e) < arguments[0]
).map((e) => [e.tagName, e.textContent.slice(0, 40), size(e)]);"""
"""Visible texts that are smaller than a number of pixels."""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_two_labels_of_a_chart_overlap(browser, address, width):
    assert opened(browser, address, width).execute_script(OVERLAPS) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_no_text_is_too_small_to_read(browser, address, width):
    assert opened(browser, address, width).execute_script(SMALL, 11) == []


def test_a_phone_shows_every_column_of_every_table(browser, address):
    page = opened(browser, address, 390)
    page.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    hidden = page.execute_script(
        """return [...document.querySelectorAll(".scroll")].filter(
             (box) => box.scrollWidth > box.clientWidth).map((box) => box.ariaLabel);"""
    )
    assert hidden == []
    outside = page.execute_script(
        """return [...document.querySelectorAll("th, td")].filter((cell) => {
             const box = cell.getBoundingClientRect();
             return box.width && (box.right > innerWidth || box.left < 0);
           }).map((cell) => cell.textContent);"""
    )
    assert outside == []
    root = "document.documentElement"
    assert page.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")


def test_a_table_of_many_columns_names_each_value_on_a_phone(browser, address):
    page = opened(browser, address, 390)
    names = page.execute_script(
        """return [...document.querySelectorAll(".many tbody tr:first-child > *")].map(
             (cell) => getComputedStyle(cell, "::before").content);"""
    )
    assert names[:3] == ['"phase"', '"epochs"', '"trains"'] and len(names) == 7


@pytest.mark.parametrize("width", [390, 1280])
def test_the_numbers_of_phases_are_not_crossed_by_a_line(browser, address, width):
    crossed = opened(browser, address, width).execute_script(
        """const found = [];
           for (const plot of document.querySelectorAll("[data-chart]")) {
             const { _offset, _length } = plot._fullLayout.yaxis;
             const top = plot.getBoundingClientRect().top + _offset;
             for (const text of plot.querySelectorAll(".annotation-text")) {
               found.push([text.textContent, text.getBoundingClientRect().bottom <= top + 1]);
             }
           }
           return found;"""
    )
    assert {"phase 1", "phase 2"} <= {text for text, _ in crossed}
    assert all(above for _, above in crossed)


def test_bars_of_the_plan_hold_text_where_there_is_room(browser, address):
    script = """return [...document.querySelectorAll("#title-plan ~ .plot .bartext")].filter(
      (text) => text.checkVisibility() && text.getBoundingClientRect().width > 1
        && getComputedStyle(text).display !== "none").map((text) => text.textContent)"""
    assert any("rate" in text for text in opened(browser, address, 1280).execute_script(script))


# --- paper ----------------------------------------------------------------------------------------

POINT = 4 / 3  # pixels


def printed(page):
    import base64

    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    paper = {"paperWidth": 8.27, "paperHeight": 11.69}
    result = page.execute_cdp_cmd("Page.printToPDF", {**paper, "preferCSSPageSize": True})
    return base64.b64decode(result["data"])


@pytest.mark.slow
def test_paper_has_few_pages_of_readable_text(page):
    import re

    pdf = printed(page)
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8
    # A hatched or transparent bar would be a picture of its whole chart.
    assert len(pdf) < 1_500_000

    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    size = {"width": 703, "height": 900, "deviceScaleFactor": 1, "mobile": False}  # A4
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.execute_script(SMALL, 8 * POINT - 0.01) == []
    assert page.execute_script(OVERLAPS) == []


@pytest.mark.slow
def test_the_screen_is_as_before_after_printing(page):
    script = """return [...document.querySelectorAll("[data-chart]")].map((plot) => {
      const box = plot.querySelector(".main-svg").getBoundingClientRect();
      const text = plot.querySelector("text");
      return [plot.dataset.chart, Math.round(box.width), Math.round(box.height),
              text ? getComputedStyle(text).fontSize : ""];
    })"""
    before = page.execute_script(script)
    printed(page)
    page.execute_script(
        "dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('afterprint'))"
    )
    wait(page, f"return JSON.stringify((() => {{{script}}})()) === arguments[0]", dumped(before))


def dumped(value):
    return json.dumps(value, separators=(",", ":"))


def test_paper_is_light_whatever_the_screen_is(browser, address):
    page = opened(browser, address, 1280, "dark")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    colours = page.execute_script(
        """const of = (name) => getComputedStyle(document.querySelector(name));
           return [of("body").backgroundColor, of("body").color, of(".xtick text").fill];"""
    )
    assert colours == ["rgb(255, 255, 255)", "rgb(23, 27, 33)", "rgb(74, 82, 93)"]


@pytest.mark.slow
def test_it_prints_every_chart_within_the_paper(page):
    import base64

    # What the page does before it is printed, on a column narrower than the screen's.
    page.execute_script(
        "dispatchEvent(new Event('beforeprint')); document.body.style.width = '680px'"
    )
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    widths = page.execute_script(
        """return [...document.querySelectorAll(".main-svg")].map(
             (svg) => svg.getBoundingClientRect().width)"""
    )
    assert widths and max(widths) <= 680
    printed = page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
