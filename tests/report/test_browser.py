"""The page in a real browser: sorted, filtered, pointed at, measured. Screenshots stay in pytest's tmp."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deltatune.report import render
from deltatune.report.stacked import PARTS

from .synthetic import write_comparison, write_grid, write_models

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PAGES = {"methods": write_comparison, "grid": write_grid, "models": write_models}


@pytest.fixture(scope="module", params=PAGES)
def page(request, tmp_path_factory):
    return render(PAGES[request.param](tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def methods_page(tmp_path_factory):
    return render(write_comparison(tmp_path_factory.mktemp("methods")))


def chromium(scratch: Path, path: Path, *flags: str) -> str:
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={scratch / 'profile'}", *flags, path.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def ask(scratch: Path, page: str, script: str, width: int = 1280):
    """Run `script` beside the page (its policy lets no other script into it); its `out` is what it found.

    `d` is the document of the page, in a frame of the given width.
    """
    outer = scratch / "outer.html"
    outer.write_text(
        f'<iframe id="f" style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
        '<script>onload=()=>{const f=document.getElementById("f"),d=f.contentDocument;const out={};'
        "const text=(query)=>[...d.querySelectorAll(query)].map(x=>x.textContent.trim());"
        f"try{{{script}}}catch(error){{out.error=String(error)}}"
        "document.title=JSON.stringify(out)}</script>",
        encoding="utf-8",
    )
    dom = chromium(scratch, outer, "--window-size=1400,1000", "--dump-dom")
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]))
    assert "error" not in found, found["error"]
    return found


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_overflows(tmp_path, page, width):
    found = ask(
        tmp_path, page,
        "d.querySelectorAll('details').forEach(x=>x.open=true);"
        "out.width=d.documentElement.scrollWidth;"
        "const free=x=>!x.closest('.scroll,pre,.example summary');"
        "out.out=[...d.querySelectorAll('main *')].filter(free)"
        ".filter(x=>x.getBoundingClientRect().right>f.clientWidth+1)"
        ".map(x=>x.outerHTML.slice(0,80));"
        "const small=[...d.querySelectorAll('.chart')].filter(x=>x.getBoundingClientRect().width<250);"
        "out.small=small.length",
        width,
    )  # fmt: skip
    assert found == {"width": width, "out": [], "small": 0}


def test_nothing_is_cut_off_in_print(tmp_path):
    folder = write_comparison(tmp_path / "measured")
    memory = dict.fromkeys(PARTS, 10**8) | {"total": 7 * 10**8}
    for path in folder.glob("runs/*/result.json"):
        result = json.loads(path.read_text(encoding="utf-8")) | {"memory": {"measured": memory}}
        path.write_text(json.dumps(result), encoding="utf-8")
    page = render(folder).replace("@media print", "@media screen")
    found = ask(
        tmp_path, page,
        "d.querySelectorAll('details').forEach(x=>x.open=true);"
        "const right=x=>x.getBoundingClientRect().right;"
        "out.bars=d.querySelectorAll('.bytes').length;"
        "out.out=[...d.querySelectorAll('table,.bytes')].filter(x=>right(x)>right(x.closest('.card'))+1)"
        ".map(x=>x.outerHTML.slice(0,80))",
        718,  # A4 less the margins
    )  # fmt: skip
    assert found == {"bars": 1, "out": []}


@pytest.mark.parametrize("width", [360, 1280])
def test_no_name_of_a_method_is_cut_off(tmp_path, page, width):
    found = ask(
        tmp_path, page,
        "out.cut=[...d.querySelectorAll('.board bdi')]"
        ".filter(x=>x.scrollHeight>x.clientHeight+1||x.scrollWidth>x.clientWidth+1).map(x=>x.textContent)",
        width,
    )  # fmt: skip
    assert found["cut"] == []


NAMES = "text('.board tbody bdi')"
CLICK = "const click=i=>d.querySelectorAll('.board thead button')[i].click();"


def test_columns_sort_both_ways_and_failures_stay_last(tmp_path, methods_page):
    found = ask(
        tmp_path, methods_page,
        f"{CLICK}out.start={NAMES};out.sorted=text('.board [aria-sort]');"
        f"click(4);out.parameters={NAMES};click(4);out.back={NAMES};"
        f"out.aria=d.querySelectorAll('.board th')[4].getAttribute('aria-sort');"
        f"click(2);out.quality={NAMES};click(1);out.names={NAMES};"
        "out.keys=[...d.querySelectorAll('.board thead button')].every(x=>x.tabIndex===0)",
    )  # fmt: skip
    prefix = "prefix (encoder, decoder and cross-attention)"
    assert found["sorted"] == ["Rank"]
    assert found["start"][-2:] == ["untuned", "prompt"]
    assert found["parameters"] == ["untuned", prefix, "lora r8", "adalora", "prompt"]
    assert found["back"] == ["adalora", "lora r8", prefix, "untuned", "prompt"]
    assert found["aria"] == "descending"
    assert found["quality"][-3:] == [prefix, "untuned", "prompt"]
    assert found["names"] == ["adalora", "lora r8", prefix, "prompt", "untuned"]
    assert found["keys"]


def test_the_filter_hides_methods_everywhere(tmp_path, methods_page):
    rows = "[...d.querySelectorAll('.board tbody tr')].filter(x=>x.offsetParent)"
    seen = f"{rows}.map(x=>x.querySelector('bdi').textContent)"
    kinds = "['.legend li','.dot','.line','.example dt','.certificates article']"
    found = ask(
        tmp_path, methods_page,
        "const box=d.getElementById('filter');out.offered=box.offsetParent!==null;"
        "const type=x=>{box.value=x;box.dispatchEvent(new Event('input'))};"
        f"type('LoRA 8, prefix');out.two={seen};out.count=d.getElementById('count').textContent;"
        "const left=kind=>[...d.querySelectorAll(kind+'[data-m]:not(.off)')].map(x=>x.dataset.m);"
        f"out.left={kinds}.map(kind=>new Set(left(kind)).size);"
        f"type('failed');out.failed={seen};type('nothing like it');out.none={seen};"
        f"type('');out.all={seen}.length",
    )  # fmt: skip
    assert found["offered"]
    assert set(found["two"]) == {"lora r8", "adalora", "prefix (encoder, decoder and cross-attention)"}
    assert found["count"] == "3 of 5 shown"  # adalora has an 8 among its settings
    assert found["left"] == [3] * 5
    assert found["failed"] == ["prompt"]
    assert found["none"] == []
    assert found["all"] == 5


def test_charts_answer_the_pointer_and_the_keyboard(tmp_path, methods_page):
    found = ask(
        tmp_path, methods_page,
        "const w=f.contentWindow,tip=d.querySelector('.tip');out.before=tip.hidden;"
        "const dot=d.querySelector('.dot');dot.focus();out.dot=tip.textContent;out.shown=!tip.hidden;"
        "d.dispatchEvent(new w.KeyboardEvent('keydown',{key:'Escape',bubbles:true}));out.escaped=tip.hidden;"
        "const chart=d.querySelector('svg.lines'),r=chart.getBoundingClientRect();"
        "const at={clientX:r.left+r.width/2,clientY:r.top+r.height/2,bubbles:true};"
        "chart.dispatchEvent(new w.PointerEvent('pointermove',at));out.curves=tip.textContent;"
        "out.titles=d.querySelectorAll('main title,main [title]').length;"
        "const t=tip.getBoundingClientRect();out.inside=t.left>=0&&t.right<=w.innerWidth;"
        "const li=d.querySelectorAll('.legend li')[1];li.dispatchEvent(new w.PointerEvent('pointerenter'));"
        "out.lit=[...new Set([...d.querySelectorAll('.chart [data-m]:not(.dim)')].map(x=>x.dataset.m))];"
        "out.m=li.dataset.m",
    )  # fmt: skip
    assert found["before"]
    assert found["shown"]
    assert "ROUGE-L F: " in found["dot"]
    assert found["escaped"]
    assert re.match(r"Step \d+\n.*: [\d.]+ \([\d.]+\u2013[\d.]+\)", found["curves"])
    assert found["curves"].count("\n") == 3
    assert found["titles"] == 0
    assert found["inside"]
    assert found["lit"] == [found["m"]]


def test_what_a_model_wrote_does_not_run(tmp_path, methods_page):
    """Even markup that escaped escaping meets the page's policy."""
    page = methods_page.replace(
        "<main>", "<main><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"
    )
    assert page != methods_page
    assert ask(tmp_path, page, "out.title=d.title")["title"] != "ran"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False)])
def test_screenshots(tmp_path, page, width, dark):
    path, shot = tmp_path / "report.html", tmp_path / f"report-{width}{'-dark' if dark else ''}.png"
    text = page.replace("@media screen and (prefers-color-scheme: dark)", "@media screen") if dark else page
    if width < 500:  # a window cannot be that narrow
        text = (
            f'<iframe style="width:{width}px;height:3000px;border:0" srcdoc="{html.escape(text)}"></iframe>'
        )
    path.write_text(text, encoding="utf-8")
    chromium(tmp_path, path, f"--window-size={max(width, 500)},3000", f"--screenshot={shot}")
    assert shot.stat().st_size > 50_000
