"""The page of a watch in a real browser: it renews itself and leaves the reader where they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deltatune.watch.server import Server
from tests.chromium import CHROMIUM, Page, chromium

from .under_way import HOSTILE, write_done, write_failed, write_log, write_under_way

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    with Server(folder, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.url
        server.shutdown()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def test_it_renews_itself_and_keeps_what_the_reader_did(page: Page, tmp_path: Path) -> None:
    folder = write_under_way(tmp_path / "out")
    write_done(folder / "runs" / "untuned-s1", "untuned", "untuned", 1, 0.3)
    first = "document.querySelector('.runs tbody tr th').textContent.trim()"
    heading = "[...document.querySelectorAll('h2')].find(x => x.textContent == 'Learning')"
    top = f"{heading}.getBoundingClientRect().top"
    with serving(folder) as url:
        page.open(url, height=500)
        page.run("window.mark = 1; document.querySelectorAll('.runs thead button')[0].click()")  # by name
        page.run("document.querySelectorAll('.runs thead button')[0].click()")  # the last first
        assert page.run(first) == "untuned"
        page.run("document.querySelectorAll('details').forEach(x => { x.open = !x.open })")
        opened = "[...document.querySelectorAll('main details')].map(x => x.open).join()"
        was = page.run(opened)
        page.run("document.querySelector('#filter').focus()")
        page.type("untuned")
        page.run(f"scrollBy(0, {top} - 40)")
        place = page.run(top)
        write_log(folder / "runs" / "lora-s0", 130)
        write_failed(folder / "runs" / "script-document.title-ran-script-s0", HOSTILE, "ia3", 0)
        page.until("document.querySelector('.runs').textContent.includes('130 of 400')")
        assert page.run("window.mark") == 1  # not loaded anew
        assert page.run(first) == "untuned"
        assert page.run("document.querySelector('.runs th').ariaSort") == "descending"
        assert page.run(opened).startswith(was)
        assert page.run("document.activeElement.id") == "filter"
        assert page.run("document.querySelector('#filter').value") == "untuned"
        assert page.run("document.getElementById('count').textContent").startswith("1 of")
        assert page.run(top) == pytest.approx(place, abs=2)
        assert page.run("document.getElementById('told').textContent") == (
            "2 of 6 runs done, 1 at work, 1 failed."
        )
        page.until("document.title.endsWith('out')")
        assert page.logged == []
    page.until("document.querySelector('.lost').textContent.includes('no longer renewed')")
    page.logged.clear()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows(page: Page, tmp_path: Path, width: int) -> None:
    with serving(write_under_way(tmp_path / ("a-very-long-name-of-a-folder-" * 6))) as url:
        page.open(url, width=width)
        assert page.run("document.documentElement.scrollWidth") == width
        out = "[...document.querySelectorAll('main *')].filter(x => !x.closest('.scroll, pre'))"
        assert page.run(f"{out}.filter(x => x.getBoundingClientRect().right > innerWidth + 1).length") == 0
        assert page.logged == []
