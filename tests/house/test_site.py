"""The documentation as a site: complete, and whole without a network."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

pytest.importorskip("mkdocs", reason="the site needs the extra docs")

FETCHED = {
    **{tag: ("src", "srcset") for tag in ("script", "img", "source", "iframe", "embed", "audio")},
    "video": ("src", "poster"),
    "object": ("data",),
    "link": ("href",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
}
"""Attributes whose address a browser fetches while it shows a page, by tag."""
NOT_FETCHED = {"canonical", "next", "prev", "alternate", "license", "author"}
"""Relations of <link> that a browser does not fetch."""


class Addresses(HTMLParser):
    """Collects the addresses that a browser fetches, and those that a reader may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.classes |= set(named.get("class", "").split())
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        if tag == "link" and set(named.get("rel", "").split()) <= NOT_FETCHED:
            return
        self.fetched += [named[name] for name in FETCHED.get(tag, ()) if name in named]
        self.fetched += style_addresses(named.get("style", ""))


def style_addresses(css: str) -> list[str]:
    """Return the addresses in a style sheet."""
    return re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")\s]+)", css)


def foreign(addresses: list[str]) -> list[str]:
    """Return the addresses that lead to another host."""
    return [address for address in addresses if re.match(r"(https?:)?//", address)]


def read_page(text: str) -> Addresses:
    """Return the addresses of a page."""
    addresses = Addresses()
    addresses.feed(text)
    for css in re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL):
        addresses.fetched += style_addresses(css)
    return addresses


@pytest.fixture(scope="module")
def config() -> dict:
    """Return the configuration of the site."""
    path = Path(__file__).parents[2] / "mkdocs.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, with warnings as errors, into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def named_pages(navigation: list | dict | str) -> list[str]:
    """Return the pages of a navigation, at any depth."""
    if isinstance(navigation, str):
        return [navigation]
    parts = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for part in parts for page in named_pages(part)]


def test_the_navigation_lists_every_page_once(config: dict, repository: Path):
    excluded = config["exclude_docs"].split()
    pages = [page.name for page in (repository / "docs").glob("*.md") if page.name not in excluded]
    assert sorted(named_pages(config["nav"])) == sorted(pages)


def test_every_page_is_built_and_its_links_stay_within_the_site(config: dict, site: Path):
    for page in named_pages(config["nav"]):
        built = site / Path(page).with_suffix(".html").name
        links = read_page(built.read_text(encoding="utf-8")).links
        inside = [link.split("#")[0] for link in links if not re.match(r"\w+:|//", link)]
        assert inside
        for link in filter(None, inside):
            assert (built.parent / link).resolve().is_relative_to(site.resolve()), link
            assert (built.parent / link).exists(), link


def test_no_page_fetches_anything_from_another_host(site: Path):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        found = read_page(page.read_text(encoding="utf-8"))
        assert any("stylesheets" in address for address in found.fetched)
        assert foreign(found.fetched) == [], page.name
        # The theme's script fetches the program for these diagrams from another host.
        assert "mermaid" not in found.classes, page.name


def test_no_style_sheet_fetches_anything_from_another_host(site: Path):
    sheets = sorted(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert foreign(style_addresses(sheet.read_text(encoding="utf-8"))) == [], sheet.name


def test_the_theme_is_told_to_use_no_other_host(config: dict):
    assert config["theme"]["font"] is False
    assert "repo_url" not in config  # the theme's script would ask the host for stars
    assert "analytics" not in config.get("extra", {})
    assert foreign([*config.get("extra_css", []), *config.get("extra_javascript", [])]) == []


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ('<img src="https://example.org/a.png">', True),
        ('<script src="//example.org/a.js"></script>', True),
        ('<link rel="stylesheet" href="https://example.org/a.css">', True),
        ('<link rel="preconnect" href="https://example.org">', True),
        ("<style>a { background: url('https://example.org/a.png') }</style>", True),
        ('<p style="background: url(https://example.org/a.png)">', True),
        ('<a href="https://example.org">a link is not fetched</a>', False),
        ('<link rel="canonical" href="https://example.org">', False),
        ('<img src="images/a.png">', False),
    ],
)
def test_an_address_of_another_host_would_be_found(page: str, found: bool):
    assert bool(foreign(read_page(page).fetched)) == found
