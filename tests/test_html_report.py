"""The page of a store: its numbers are those of the table, it asks nothing of a network, and it works in a browser."""

import contextlib
import json
import re
import shutil

import numpy as np
import pytest
from problems import quadratic_loss, shifted
from trajectories import PROBLEM, RUNS, SHORT, follow

import jaxllc
from jaxllc import html_report
from jaxllc.cli import main
from jaxllc.trajectory import Trajectory
from jaxllc.views import with_steps

pytest.importorskip("plotly")
MANY = {step: shifted(PROBLEM.params, 0.3 / (1 + i)) for i, step in enumerate((0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000))}
NORM = {"norm": lambda params: (params["a"] ** 2).sum()}


def data_of(page):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)[1])


def test_the_numbers_are_those_of_the_table():
    traj = follow(RUNS)
    found = html_report.contents(traj, "llc.zarr")
    table = traj.table()
    assert [curve["name"] for curve in found["curves"]] == list(RUNS)
    for curve in found["curves"]:
        one = table.xs(curve["name"], level="run")
        assert curve["step"] == list(one.index)
        for name in ("llc", "std_error", "loss", "mean_loss", "rhat"):
            np.testing.assert_allclose(curve[name], one[name], rtol=1e-4)
        means = [np.mean(chains) for chains in curve["chains"]]
        np.testing.assert_allclose(means, one["llc"], rtol=1e-3, atol=1e-3)
        assert [" ".join(codes) for codes in curve["codes"]] == list(one["findings"])


def test_findings_stay_at_their_checkpoints():
    """Beside one at which all chains diverged, which has findings and no number, and one that failed. Seen to fail by counting the numbers alone."""
    near, other = shifted(PROBLEM.params, 5.0), {"other": PROBLEM.params["a"]}
    followed = follow({"whole": {0: near, 10: near, 20: near}, "broken": {0: near, 10: other, 20: near}})
    traj = jaxllc.Trajectory(followed.data.copy(deep=True))
    traj.data["posterior/llc"].loc[{"run": "broken", "step": 0}] = np.nan
    table = traj.table()
    for curve in html_report.contents(traj, "x")["curves"]:
        assert curve["codes"] == [codes.split() for codes in table.xs(curve["name"], level="run")["findings"]]
    assert curve["codes"][:2] == [["diverged"], ["failed"]]
    assert curve["llc"][:2] == [None, None]


def test_long_chains_are_means_over_blocks():
    draws = np.arange(2 * 3 * 100_000, dtype=float).reshape(2, 3, 100_000)
    made = html_report._chains(draws, html_report.MOST_POINTS)["chains"]
    assert sum(len(chain) for one in made for chain in one) <= html_report.MOST_POINTS
    np.testing.assert_allclose(np.mean(made[1][2]), draws[1, 2].mean(), rtol=1e-4)


def test_a_name_is_no_markup_and_nothing_is_fetched(tmp_path):
    page = html_report.page(follow(), "</script><b>run")
    assert "</script><b>run" not in page
    assert data_of(page)["name"] == "</script><b>run"
    outside_of_plotly = re.sub(r"<script>/\*\*.*?</script>", "", page, count=1, flags=re.S)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", outside_of_plotly)


def test_one_checkpoint_has_a_page_too(key):
    est = jaxllc.estimate(quadratic_loss, PROBLEM.params, PROBLEM.data, key=key, **SHORT)
    found = html_report.contents(Trajectory(with_steps(est.data)), "x")
    assert found["curves"][0]["llc"] == [pytest.approx(est.llc, rel=1e-4)]
    assert found["curves"][0]["stages"] == []
    assert "x" in html_report.page(est, "x")


def test_components_are_curves():
    traj = follow(components={"a": "a", "all": None})
    assert [curve["name"] for curve in html_report.contents(traj, "x")["curves"]] == ["a", "all"]


@contextlib.contextmanager
def opened(page, width):
    """A browser without a network that shows a page, `width` pixels wide."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("no chromium here")
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600})
        browser.get(page.as_uri())
        yield browser
        errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not errors, errors
    finally:
        browser.quit()


CHOOSE = "const p = document.getElementById('place'); p.value = arguments[0]; p.dispatchEvent(new Event('change'))"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_works_in_a_browser(tmp_path, width, capsys):
    """Opened, hovered, another checkpoint chosen, other time, copied, printed in dark ink from a dark screen: no error in the console, nothing too wide."""
    pytest.importorskip("selenium")
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    follow(MANY, store=tmp_path / "llc.zarr", probes=NORM)
    main(["report", str(tmp_path / "llc.zarr"), "-o", str(tmp_path / "report.html")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    with opened(tmp_path / "report.html", width) as browser:
        wait = WebDriverWait(browser, 20)
        point = browser.find_element(By.ID, "curves").find_elements(By.CSS_SELECTOR, ".scatterlayer .points path")[2]
        ActionChains(browser).move_to_element(point).perform()
        wait.until(lambda _: "step 3" in browser.execute_script("return document.querySelector('#curves .hoverlayer').textContent"))
        assert browser.execute_script("return document.getElementById('curves').data.length") >= 4
        first = browser.execute_script("return document.getElementById('chains').data[0].y")
        browser.execute_script(CHOOSE, "0/2")
        assert browser.execute_script("return document.getElementById('chains').data[0].y") != first
        assert browser.find_element(By.ID, "chosen").text == "step 3"
        browser.find_element(By.ID, "linear").click()
        assert browser.execute_script("return document.getElementById('curves').layout.xaxis.type") == "linear"
        browser.find_element(By.ID, "log").click()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        button = browser.find_element(By.CSS_SELECTOR, "[data-copy=command]")
        browser.execute_script("arguments[0].scrollIntoView()", button)
        button.click()
        wait.until(lambda _: button.text == "copied")
        ink = "document.getElementById('curves').layout.font.color"
        assert browser.execute_script(f"return {ink}") == "#1b1f24"
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
        wait.until(lambda _: browser.execute_script(f"return {ink}") == "#e6e9ec")
        browser.execute_script(f"window.inks = []; addEventListener('beforeprint', () => inks.push({ink}))")
        assert browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})["data"]
        assert browser.execute_script("return inks") == ["#1b1f24"]
        wait.until(lambda _: browser.execute_script(f"return {ink}") == "#e6e9ec")


@pytest.mark.slow
def test_stages_are_those_of_the_chosen_run(tmp_path, monkeypatch):
    """Of two runs, of which the second is said to have a stage that ends at step 300."""
    traj, page = follow({"one": MANY, "two": MANY}), tmp_path / "report.html"
    found = html_report.contents(traj, "llc.zarr")
    found["curves"][1]["stages"][-1]["end"] = 300.0
    monkeypatch.setattr(html_report, "contents", lambda *_: found)
    page.write_text(html_report.page(traj, "llc.zarr"))
    with opened(page, 1200) as browser:
        ends = []
        for place in ("0/3", "1/3"):
            browser.execute_script(CHOOSE, place)
            ends.append(browser.execute_script("return Math.max(...document.getElementById('curves').layout.shapes.map(shape => shape.x1))"))
        assert ends == [10_000, 300]
        assert browser.execute_script("return document.getElementById('chosen').textContent") == "two: step 10"
