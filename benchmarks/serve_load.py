"""Load on `deltatune serve`: requests a second and latency, with 1, 8 and 64 deltas and 1, 8 and 32 clients.

Held against one process for each delta (as many as fit into memory) and against peft, which switches by
set_adapter and answers one request at a time. And 10,000 mixed requests: none may be lost, or answered by
another's delta. Each request has a prompt of about 10 tokens and 16 new ones, greedily.

    python benchmarks/serve_load.py                  # about 9 minutes; writes the result and the table
    python benchmarks/serve_load.py --small          # a tiny model and few requests, a minute or two
    python benchmarks/serve_load.py --only mixed     # one part; what is there already is kept

Called again it goes on with what is missing; --again measures anew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from serve_peft import NEW, PROMPTS, Peft, summary

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs/how-to/serve.md"
NEW_MIXED = 8
DELTAS, CLIENTS = (1, 8, 64), (1, 8, 32)
PROCESSES = 8
GIGABYTES_A_PROCESS = 1.3


def prepare(work: Path, model: str, count: int) -> list[Path]:
    """Runs on one base: one is trained for a step, the others are copies of it with other deltas."""
    import deltatune as dt
    from deltatune.checkpoint.store import save_adapter
    from deltatune.methods import METHODS
    from deltatune.runs.load import load_run
    from deltatune.testing.tiny import perturb

    folders = [work / f"d{number:02}" for number in range(count)]
    if all((folder / "adapter").is_dir() for folder in folders):
        return folders
    rows = [{"input": prompt, "target": prompt.split()[-1]} for prompt in PROMPTS]
    recipe = dt.make_recipe(
        task="causal-lm", model=model, methods=[{"lora": {"r": 8}}],
        data={"source": rows, "split": {"validation": 0.1, "test": 0.1}, "template": "{input}"},
        train={"max_steps": 1, "batch_size": 2, "precision": "fp32"},
        evaluation={"metrics": ["loss"], "primary": "loss", "max_new_tokens": NEW},
    )  # fmt: skip
    first = work / "first"
    if not (first / "result.json").exists():
        shutil.rmtree(first, ignore_errors=True)
        dt.train(recipe, first, method="lora", quiet=True)
    run = load_run(first)
    for number, folder in enumerate(folders):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in ("recipe.yaml", "result.json"):
            shutil.copy(first / file, folder / file)
        perturb(run.model.attach(folder.name, METHODS.get("lora")(r=8)), seed=number, std=0.05)
        save_adapter(run.model, folder.name, folder / "adapter", base_name=run.base.name,
                     fingerprint=run.fingerprint)  # fmt: skip
        run.model.detach(folder.name)
    return folders


@contextlib.contextmanager
def server(folders: Sequence[Path], threads: int | None = None) -> Iterator[str]:
    """A `deltatune serve` of these runs: its address."""
    command = [sys.executable, "-m", "deltatune", "serve", *map(str, folders), "--port", "0", "--json",
               "--queue", "4096"]  # fmt: skip
    threaded = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **threaded}
    )
    try:
        assert process.stdout is not None
        said = ""
        while not said.rstrip().endswith("}"):
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("the server did not start")
            said += line
        yield json.loads(said)["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def load(urls: dict[str, str], clients: int, seconds: float) -> dict[str, Any]:
    """What so many clients get, each of which asks anew when it is answered, and any of the deltas."""

    async def drive() -> dict[str, Any]:
        import httpx

        times: list[float] = []
        failed = 0
        names, draw = list(urls), random.Random(0)
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=clients)) as http:

            async def ask(name: str) -> bool:
                body = {"model": name, "prompt": draw.choice(PROMPTS), "max_tokens": NEW}
                answer = await http.post(f"{urls[name]}/v1/completions", json=body)
                return answer.status_code == 200

            await asyncio.gather(*(ask(name) for name in names[: min(8, len(names))]))  # warm
            started = time.perf_counter()

            async def client() -> None:
                nonlocal failed
                while time.perf_counter() - started < seconds:
                    begun = time.perf_counter()
                    failed += not await ask(draw.choice(names))
                    times.append(time.perf_counter() - begun)

            await asyncio.gather(*(client() for _ in range(clients)))
            spent = time.perf_counter() - started
        return summary(times, spent, failed)

    return asyncio.run(drive())


def mixed(folders: Sequence[Path], count: int) -> dict[str, Any]:
    """So many requests to all deltas at once, each answer held against what its delta says alone."""
    from deltatune.runs.load import attach, load_beside, load_run
    from deltatune.serve.engine.lane import Lane
    from deltatune.tasks.tokens import padded

    run = load_run(folders[0])
    prompts, expected = PROMPTS[:8], {}
    import torch

    for folder in folders:
        run_of = load_beside(run, folder, f"x{folder.name}")
        attach(run_of)
        for prompt in prompts:
            ids = run.encoder.tokens.prompt(prompt, 512)[0]
            with torch.inference_mode():
                lane = Lane(run.model, [run_of.adapter], padded([ids], run.encoder, left=True))
                written: list[int] = []
                while len(written) < NEW_MIXED:
                    token = int(lane.logits.argmax())
                    if token in run.encoder.eos_ids:
                        break
                    written.append(token)
                    lane.step([token])
            expected[folder.name, prompt] = run.encoder.tokens.tokenizer.decode(
                written, skip_special_tokens=True
            )
        run.model.detach(run_of.adapter or "")
    different = len({tuple(expected[folder.name, p] for p in prompts) for folder in folders})
    wrong: list[str] = []
    lost = done = 0

    async def drive(url: str) -> float:
        import httpx

        nonlocal lost, done
        draw = random.Random(1)
        asked = [(draw.choice(folders).name, draw.choice(prompts)) for _ in range(count)]
        waiting = iter(asked)
        started = time.perf_counter()
        async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=64)) as http:

            async def client() -> None:
                nonlocal lost, done
                for name, prompt in waiting:
                    body = {"model": name, "prompt": prompt, "max_tokens": NEW_MIXED}
                    done += 1
                    try:
                        answer = await http.post(f"{url}/v1/completions", json=body)
                    except httpx.HTTPError as error:
                        lost += 1
                        wrong.append(f"{name}: no answer ({type(error).__name__})")
                        continue
                    if answer.status_code != 200:
                        lost += 1
                    elif (text := answer.json()["choices"][0]["text"]) != expected[name, prompt]:
                        others = [
                            key for key, value in expected.items() if value == text and key[1] == prompt
                        ]
                        wrong.append(f"{name}: {text!r}, not {expected[name, prompt]!r}; said by {others}")

            await asyncio.gather(*(client() for _ in range(64)))
        return time.perf_counter() - started

    with server(folders) as url:
        spent = asyncio.run(drive(url))
    return {"requests": done, "deltas": len(folders), "different": different, "lost": lost,
            "wrong": len(wrong), "first_wrong": wrong[:3], "per_second": done / spent}  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The result as it stands on the page."""
    lines = [
        "| deltas | clients | `deltatune serve` | a process each | peft, set_adapter |",
        "|--:|--:|:--|:--|:--|",
    ]
    for deltas in DELTAS:
        for clients in CLIENTS:
            cells = [_cell(found.get(f"{side}_{deltas}_{clients}")) for side in ("ours", "processes", "peft")]
            lines.append(f"| {deltas} | {clients} | {' | '.join(cells)} |")
    check = found.get("mixed")
    if check:
        lines += [
            "",
            f"{check['requests']:,} requests to {check['deltas']} deltas, {check['different']} of which "
            f"answer differently (a tiny model, 64 clients): {check['lost']} lost, {check['wrong']} answered "
            f"otherwise than alone; {check['per_second']:,.0f} a second.",
        ]
    return "\n".join(lines)


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    if "why" in cell:
        return str(cell["why"])
    return f"{cell['per_second']:.1f} /s, {cell['p50']:.2f} s, {cell['p95']:.2f} s"


def tiny_base(work: Path) -> str:
    """A random Llama of some thousand weights."""
    from deltatune.testing.folders import save_tiny

    folder = work / "tiny-llama"
    if not folder.exists():
        save_tiny("llama", folder)
    return str(folder)


class Bench:
    """What is found, and kept in a file from cell to cell.

    Args:
        out: The file.
        only: The one part that is wanted; None: all.
        again: Whether what is there is measured anew.
    """

    def __init__(self, out: Path, only: str | None, *, again: bool) -> None:
        self._out, self._only = out, only
        self.found: dict[str, Any] = json.loads(out.read_text()) if out.exists() and not again else {}

    def missing(self, side: str, deltas: int) -> list[int]:
        """Numbers of clients that are not measured yet."""
        if self._only not in (None, side):
            return []
        return [clients for clients in CLIENTS if f"{side}_{deltas}_{clients}" not in self.found]

    def note(self, key: str, cell: dict[str, Any]) -> None:
        self.found[key] = cell
        self._out.write_text(json.dumps(self.found, indent=2) + "\n", encoding="utf-8")
        print(f"{key}: {_cell(cell) if 'p50' in cell else cell}", flush=True)

    def ours(self, folders: Sequence[Path], seconds: float) -> None:
        """One server with all deltas."""
        for deltas in DELTAS:
            if missing := self.missing("ours", deltas):
                with server(folders[:deltas]) as url:
                    for clients in missing:
                        urls = {folder.name: url for folder in folders[:deltas]}
                        self.note(f"ours_{deltas}_{clients}", load(urls, clients, seconds))

    def processes(self, folders: Sequence[Path], seconds: float) -> None:
        """A server for each delta; the processors are shared among them."""
        for deltas in DELTAS:
            missing = self.missing("processes", deltas)
            if deltas == 1:
                for clients in missing:
                    self.note(f"processes_1_{clients}", {"why": "the same"})
            elif deltas > PROCESSES:
                for clients in missing:
                    why = f"not tried: about {deltas * GIGABYTES_A_PROCESS:.0f} GB"
                    self.note(f"processes_{deltas}_{clients}", {"why": why})
            elif missing:
                threads = max(1, (os.cpu_count() or 1) // deltas)
                with contextlib.ExitStack() as stack:
                    urls = {f.name: stack.enter_context(server([f], threads)) for f in folders[:deltas]}
                    for clients in missing:
                        self.note(f"processes_{deltas}_{clients}", load(urls, clients, seconds))

    def peft(self, model: str, folders: Sequence[Path], seconds: float) -> None:
        """peft with all adapters loaded."""
        missing = [(deltas, clients) for deltas in DELTAS for clients in self.missing("peft", deltas)]
        if not missing:
            return
        peft, names = Peft(model, folders), [folder.name for folder in folders]
        for deltas, clients in missing:
            self.note(f"peft_{deltas}_{clients}", peft.load(names[:deltas], clients, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--work", type=Path, default=Path("out/serve-load"), help="where runs are kept")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "serve_load.json")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the table")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each cell")
    parser.add_argument("--requests", type=int, default=10_000, help="of the mixed check")
    parser.add_argument("--only", choices=["ours", "processes", "peft", "mixed", "page"])
    parser.add_argument("--small", action="store_true", help="a tiny model, short cells; writes no page")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    args = parser.parse_args()
    if args.small:
        args.seconds, args.requests = 2.0, 500
        args.work = args.work.with_name("serve-load-small")
        args.out = args.work / "small.json"
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cells = (2 * len(DELTAS) + 1) * len(CLIENTS)
    estimate = cells * args.seconds + args.requests / 100 + (60 if args.small else 210)
    print(f"about {estimate / 60:.0f} minutes", flush=True)
    bench = Bench(args.out, args.only, again=args.again)
    tiny = tiny_base(args.work)
    model = tiny if args.small else args.model
    bench.found |= {"model": Path(model).name, "new_tokens": NEW, "seconds": args.seconds}
    if args.only in (None, "mixed") and "mixed" not in bench.found:
        bench.note("mixed", mixed(prepare(args.work / "tiny-runs", tiny, 64), args.requests))
    if args.only not in ("mixed", "page"):
        folders = prepare(args.work / "runs", model, max(DELTAS))
        bench.ours(folders, args.seconds)
        bench.processes(folders, args.seconds)
        bench.peft(model, folders, args.seconds)
    text = table(bench.found)
    print(text)
    if not args.small:
        page = args.page.read_text(encoding="utf-8")
        mark = re.compile(r"(<!-- serve_load -->\n).*?(<!-- end -->)", re.DOTALL)
        args.page.write_text(mark.sub(lambda m: f"{m[1]}{text}\n{m[2]}", page), encoding="utf-8")


if __name__ == "__main__":
    main()
