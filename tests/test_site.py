"""The documentation site: it builds strictly, needs no network, its links lead somewhere, and it works in a browser."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT

pytest.importorskip("material", reason="pip install openseg[docs]")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), "NO_MKDOCS_2_WARNING": "1"}
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class References(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.links, self.loaded, self.ids = [], [], set()
        self.feed(page.read_text())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids.add(values.get("id"))
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag in ("script", "img", "link", "iframe"):
            self.loaded.append(values.get("src") or values.get("href") or "")


def test_links_lead_somewhere_and_nothing_is_loaded_from_the_network(site):
    pages = {path: References(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) >= 25
    for path, found in pages.items():
        assert not [each for each in found.loaded if urlsplit(each).netloc], path
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), (path.name, link)
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, (path.name, link)


def test_every_exported_name_is_in_the_reference(site):
    import openseg

    ids = References(site / "api/openseg.html").ids
    names = {openseg._MODULES.get(name, "errors") + f".{name}" for name in openseg.__all__}
    assert {f"openseg.{name}" for name in names} <= ids


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_pages_fit_and_search_finds(site, chromium, size):
    page = chromium.new_page(viewport=size)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in ("index.html", "training.html", "api/openseg.html"):
        page.goto((site / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], name
    page.goto((site / "index.html").as_uri())
    if size is PHONE:
        page.click("label.md-header__button[for=__search]")
    page.locator("input.md-search__input").press_sequentially("keep_thin", delay=50)
    page.wait_for_selector(".md-search-result__item a")
    assert not errors
    page.close()
