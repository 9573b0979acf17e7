"""The playground in a real browser, against a server that answers what the test says."""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chromium import CHROMIUM, Page, chromium

from .pretended import model, pretending

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
HOSTILE = "<img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>\u202e"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def tokens(text: str, p: float = 0.95) -> list[tuple[str, float, dict[str, float]]]:
    parts = [word if not n else f" {word}" for n, word in enumerate(text.split(" "))]
    return [(part, math.log(p), {part.strip(): math.log(p), "other": math.log(0.04)}) for part in parts]


def texts(page: Page, query: str) -> list[str]:
    return list(page.run(f"[...document.querySelectorAll({query!r})].map(x => x.textContent)"))


def ask(page: Page, text: str) -> None:
    """Write a text into the first field, and send it by the keyboard."""
    page.run("document.querySelector('#fields textarea').value = ''")
    page.run("document.querySelector('#fields textarea').focus()")
    page.type(text)
    page.key("Enter", ctrl=True)


DONE = "document.querySelector('#answers article') && !document.querySelector('#answers [aria-busy]')"
ARE = {"base": "The old film was fine", "lora": "The new film was very fine", "ia3": "The old film was fine"}


def test_texts_stream_side_by_side_and_differences_are_marked(page: Page) -> None:
    models = [model(name, template="{{T}}: {input}") for name in ("lora", "ia3", "base")]
    with pretending(models, lambda body: tokens(ARE[body["model"]])) as (url, asked):
        page.open(url)
        page.until("document.querySelector('#fields textarea')")
        ask(page, "a table")
        page.until(DONE)
        page.until("document.querySelectorAll('.new').length")
        assert texts(page, "#answers h3") == ["base", "lora", "ia3"]
        assert texts(page, "#answers .text") == [ARE["base"], ARE["lora"], ARE["ia3"]]
        assert texts(page, ".new") == ["new", "very"]
        assert {body["prompt"] for body in asked} == {"{T}: a table"}
        assert all(body["path"] == "/v1/completions" and body["logprobs"] == 5 for body in asked)
        assert texts(page, ".tag") == []
        page.run("document.querySelectorAll('#answers .text')[1].focus()")
        page.key("ArrowRight")
        page.key("ArrowRight")
        assert texts(page, ".tip")[0].split() == ["95.0", "%", '"new"', "4.0", "%", '"other"']
        page.key("Escape")
        assert page.run("document.querySelector('.tip').hidden")
        assert page.logged == []


@pytest.mark.slow
def test_answers_of_other_words_have_one_note(page: Page) -> None:
    answers = {"base": "one two three", "lora": "four five six"}
    with pretending([model(name) for name in answers], lambda body: tokens(answers[body["model"]])) as (
        url,
        _,
    ):
        page.open(url)
        page.until("document.querySelector('#fields textarea')")
        ask(page, "x")
        page.until(DONE)
        assert texts(page, ".tag") == ["unlike base"]
        assert texts(page, ".new") == []


def test_what_models_and_users_say_stays_text(page: Page) -> None:
    models = [model("base"), model(HOSTILE, method=HOSTILE)]
    with pretending(models, lambda body: tokens(f"{HOSTILE} {body['model']}")) as (url, _):
        page.open(url)
        page.until("document.querySelector('#fields textarea')")
        ask(page, HOSTILE)
        page.until(DONE)
        said = texts(page, "#answers")[0]
        assert "<script>" in said
        assert "\u202e" not in said
        assert page.run("document.title") == "deltatune playground"
        assert page.run("document.images.length") == 1  # the page's own, hidden
        page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
        page.run("new Promise(done => setTimeout(done, 50))")
        assert page.run("document.title") == "deltatune playground"  # the policy holds
        page.logged.clear()


@pytest.mark.slow
def test_escape_stops_and_what_was_written_stays(page: Page) -> None:
    with pretending([model("base")], lambda body: tokens("word " * 500), pause=0.02) as (url, _):
        page.open(url)
        page.until("document.querySelector('#fields textarea')")
        ask(page, "go on")
        page.until("document.querySelector('#answers .text')?.textContent.length > 10")
        page.key("Escape")
        page.until(DONE)
        assert texts(page, "#answers .meta") == ["stopped"]
        assert texts(page, "#answers .text")[0].startswith("word")
        assert not page.run("document.getElementById('go').disabled")


@pytest.mark.slow
def test_a_conversation_remembers_what_each_model_said(page: Page) -> None:
    models = [model("base", chats=True), model("lora", chats=True)]
    with pretending(models, lambda body: tokens(f"I am {body['model']}")) as (url, asked):
        page.open(url)
        page.until("document.querySelector('#fields textarea')")
        page.run("document.getElementById('system-text').value = 'Be short.'")
        for turn in ("Hello", "And?"):
            page.run("document.querySelector('#fields textarea').focus()")
            page.type(turn)
            page.key("Enter")
            page.until(f"document.querySelectorAll('.turn').length == {1 + (turn == 'And?')} && {DONE}")
        second = next(body for body in asked[2:] if body["model"] == "lora")
        assert second["path"] == "/v1/chat/completions"
        assert [(m["role"], m["content"]) for m in second["messages"]] == [
            ("system", "Be short."), ("user", "Hello"), ("assistant", "I am lora"), ("user", "And?"),
        ]  # fmt: skip
        assert texts(page, ".user") == ["And?", "Hello"]  # the latest stands below the form
        page.run("document.getElementById('anew').click()")
        assert texts(page, ".turn") == []


LINES: dict[str, dict[str, Any]] = {
    "base": {"input": "x", "prediction": "negative", "probabilities": {"negative": 0.7, "positive": 0.3}},
    "lora": {"input": "x", "prediction": "positive", "probabilities": {"negative": 0.02, "positive": 0.98}},
}


def test_classes_have_bars_and_a_picture_is_sent_as_it_is(page: Page) -> None:
    models = [
        model(name, task="image-classification", reads="images", writes=False, fields=[]) for name in LINES
    ]
    rows = b"".join(b"\0" + bytes([200, 40, 40] * 8) for _ in range(8))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    with pretending(models, lambda body: LINES[body["model"]]) as (url, asked):
        page.open(url)
        page.until("document.querySelector('#models input')")
        encoded = base64.b64encode(png).decode()
        page.run(
            f"(() => {{ const data = new DataTransfer(), text = atob('{encoded}');"
            "const b = Uint8Array.from(text, c => c.charCodeAt(0));"
            "data.items.add(new File([b], 'x.png', {type: 'image/png'}));"
            "dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})) })()"
        )
        page.until("document.getElementById('shown').naturalWidth === 8")
        page.run("document.getElementById('go').click()")
        page.until(DONE)
        assert asked[0]["input"] == f"data:image/png;base64,{encoded}"
        assert texts(page, ".prediction") == ["negative", "positive"]
        assert texts(page, ".bars .share") == ["70.0 %", "30.0 %", "98.0 %", "2.0 %"]
        assert texts(page, ".tag") == ["not as base"]
        widths = page.run("[...document.querySelectorAll('.fill')].map(x => x.style.width)")
        assert widths == ["70%", "30%", "98%", "2%"]
        assert page.logged == []


@pytest.mark.slow
def test_tags_stand_in_their_text_whatever_its_letters(page: Page) -> None:
    text = "\U0001f600 Ada met Bob"
    spans = [{"text": "Ada", "label": "PER", "start": 2, "end": 5, "score": 0.9}]
    line = {"input": text, "prediction": "", "spans": spans}
    more = line | {"spans": [*spans, {"text": "Bob", "label": "PER", "start": 10, "end": 13, "score": 0.8}]}
    models = [model(name, task="token-classification", writes=False) for name in ("base", "lora")]
    with pretending(models, lambda body: more if body["model"] == "lora" else line) as (url, _):
        page.open(url)
        page.until("document.querySelector('#fields textarea')")
        ask(page, text)
        page.until(DONE)
        assert texts(page, "mark") == ["AdaPER", "AdaPER", "BobPER"]
        assert texts(page, "mark.new") == ["BobPER"]


@pytest.mark.slow
def test_several_columns_errors_and_the_token(page: Page) -> None:
    models = [model("base", fields=["premise", "text"], writes=False), model("chat", chats=True)]
    with pretending(models, lambda body: {"refused": f"no {HOSTILE}"}, token="s3cret") as (url, asked):
        page.open(url)
        page.until("!document.getElementById('locked').hidden")
        page.type("wrong")
        page.key("Enter")
        page.until("!document.getElementById('problem').hidden")
        page.type("s3cret")
        page.key("Enter")
        page.until("document.querySelector('#fields textarea')")
        assert texts(page, "#fields label") == ["Premise", "Text"]
        assert page.run("[...document.querySelectorAll('#models input')].map(x => x.disabled)") == [
            False,
            True,
        ]
        ask(page, "it rains")
        page.until(DONE)
        assert asked[0]["input"] == {"premise": "it rains", "text": ""}
        assert texts(page, "#answers .bad")[0].startswith("no <img")
        assert "s3cret" not in page.run("document.documentElement.outerHTML")
        page.logged.clear()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_and_all_can_be_reached(page: Page, width: int) -> None:
    long = "x" * 400
    with pretending([model("base"), model(long[:80])], lambda body: tokens(f"{long} {long}")) as (url, _):
        page.open(url, width=width)
        page.until("document.querySelector('#fields textarea')")
        ask(page, long)
        page.until(DONE)
        assert page.run("document.documentElement.scrollWidth") == width
        unnamed = (
            "[...document.querySelectorAll('input, textarea')].filter(x => !x.labels.length && !x.ariaLabel)"
        )
        assert page.run(f"{unnamed}.map(x => x.outerHTML)") == []


@pytest.mark.slow
def test_a_very_long_answer_does_not_hang_the_page(page: Page) -> None:
    word = "word " * 20_000
    with pretending([model("base"), model("lora")], lambda body: [(word, -0.1, {})] * 10) as (url, _):
        page.open(url)
        page.until("document.querySelector('#fields textarea')")
        ask(page, "long")
        page.until(DONE, 20)
        page.until("document.querySelector('#answers .text').textContent.includes('800000 more characters')")


def test_the_real_server_answers_it(page: Page, place: Any) -> None:
    page.open(f"{place.url}/")
    page.until("document.querySelector('#fields textarea')")
    assert page.run("[...document.querySelectorAll('#models input:checked')].map(x => x.value)")[0] == "base"
    page.run("document.getElementById('most').value = 6")
    page.run("document.querySelector('#fields textarea').focus()")
    page.type("3 of the goals")
    page.key("Enter")
    page.until(DONE)
    names = page.run("[...document.querySelectorAll('#models input:checked')].map(x => x.value)")
    shown = page.run("[...document.querySelectorAll('#answers .text')].map(x => x.textContent)")
    said = [
        place.client()
        .chat.completions.create(
            model=name, messages=[{"role": "user", "content": "3 of the goals"}], max_tokens=6
        )
        .choices[0]
        .message.content
        for name in names
    ]
    expected = [page.run(f"plain({json.dumps(text)})") for text in said]
    assert [text.strip() for text in shown] == [text.strip() or "nothing" for text in expected]
    assert page.run("document.querySelectorAll('[data-token]').length") > 0
    assert page.logged == []
