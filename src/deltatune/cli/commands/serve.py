"""`serve`: runs that answer over HTTP."""

from __future__ import annotations

import importlib.util
import ipaddress
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.cli import output
from deltatune.cli.options import Base, Device, Json, TrustRemoteCode
from deltatune.errors import DeltatuneError

if TYPE_CHECKING:
    from deltatune.serve.deltas.opening import Named
    from deltatune.serve.deltas.pool import Pool

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
TOKEN = "DELTATUNE_TOKEN"


def serve(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]RUN...",
            help="Folders of runs on one base, and what to call them.",
            show_default=False,
        ),
    ],
    host: Annotated[
        str, typer.Option("--host", help="The address to listen at; 0.0.0.0 for other machines to ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8321,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar=TOKEN,
            help="Answer only who brings it (Authorization: Bearer TOKEN).",
            show_default=False,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Another name it is asked by. May be repeated.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--runs",
            metavar="DIR",
            help="Let runs of this folder be added and removed while it runs.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    in_memory: Annotated[int, typer.Option("--in-memory", min=1, help="Deltas in memory at once.")] = 64,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows of one pass.")] = 32,
    queue: Annotated[
        int, typer.Option("--queue", min=1, help="Requests that may wait; others get 429.")
    ] = 256,
    tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Tokens that a request may have written.")
    ] = 1024,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds until a request is answered.")
    ] = 120.0,
    body: Annotated[int, typer.Option("--max-body", min=1, help="MiB of a request.")] = 16,
    grace: Annotated[
        float, typer.Option("--grace", min=0, help="Seconds to finish what runs, when stopped.")
    ] = 30.0,
    log: Annotated[
        bool, typer.Option("--log", help="A line on stderr for each request; never what it says.")
    ] = False,
    base: Base = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be loaded, and the memory it takes, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    r"""Answer over HTTP with several runs on one base, whose requests share their batches.

    The base is loaded once; a request names the run that answers as its [bold]model[/bold], or
    [bold]base[/bold] for the plain base. It speaks OpenAI's API, so that its clients work, and
    has /predict for all that is no text. Answers are those of [bold]predict[/bold].

    [bold]Examples[/bold]
      $ deltatune serve out/chats/runs/lora-s0 out/chats/runs/ia3-s0
      $ deltatune serve short=out/a/runs/lora-s0 long=out/b/runs/lora-s0 --port 9000
      $ deltatune serve out/tables/runs/* --in-memory 8 --runs out/tables/runs
      $ curl http://127.0.0.1:8321/predict -H "Content-Type: application/json" \
          -d '{"model": "lora-s0", "input": "0 Country: Russia, Cost: 42$"}'

    [bold]Routes[/bold]: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /predict;
    /health (200 when loaded), /metrics (for Prometheus); with --runs /admin/deltas.

    It listens on this machine alone unless --host says otherwise. Ctrl-C or SIGTERM ends it
    when what runs is finished. Exit code: 0; 2 if it cannot start.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise DeltatuneError(
            f"the package {missing[0]} is not installed.", remedy='Install "deltatune[serve]".'
        )
    _require_usable(token, timeout, grace)
    from deltatune.recipe.given import Given
    from deltatune.serve.deltas.opening import named, open_pool, require_one_base

    names: list[Named] = []
    for argument in runs:
        names.append(named(argument, [each.name for each in names]))
    require_one_base(names)
    if dry_run:
        _planned(names, in_memory, as_json)
        return
    from deltatune.serve.engine.limits import Limits
    from deltatune.serve.http.server import bind
    from deltatune.serve.http.server import serve as answer
    from deltatune.serve.http.settings import Settings

    limits = Limits(rows=batch, queue=queue, tokens=tokens, seconds=timeout, body=body << 20)
    settings = Settings(host, port, token, tuple(allow_host or ()), folder, grace, log, limits)
    _warn(settings)
    sock = bind(settings)
    where = _where(host, sock.getsockname()[1])
    output.stderr().print(
        output.text(f"Loading {names[0].base} and {len(names)} delta{'s' if len(names) > 1 else ''}", "dim")
    )

    def ready(pool: Pool) -> None:
        _greet(pool, where, settings.token is not None, as_json)

    given = Given(base=base)
    answer(
        lambda try_out: open_pool(
            names, in_memory, try_out, trust_remote_code=trust_remote_code, given=given, device=device
        ),
        settings,
        sock,
        ready,
    )


def _where(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _require_usable(token: str | None, timeout: float, grace: float) -> None:
    """Refuse what no request could bring, and seconds that never end.

    Raises:
        DeltatuneError: A value is such.
    """
    if token is not None and (not token.isascii() or not token.isprintable() or token.split() != [token]):
        raise DeltatuneError(
            "it is empty, or has blanks or characters beyond ASCII.",
            field="--token",
            remedy="Choose another one; without the option, none is needed to ask.",
        )
    for name, seconds in (("--timeout", timeout), ("--grace", grace)):
        if not math.isfinite(seconds):
            raise DeltatuneError(f"{seconds} is no number of seconds.", field=name, remedy="Write 120.")


def _warn(settings: Any) -> None:
    try:
        here = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        here = settings.host == "localhost"
    if not here and settings.token is None:
        what = f"whoever reaches {settings.host} may ask, without a token: set one with --token or {TOKEN}."
        warnings.warn(what, stacklevel=2)


def _planned(names: list[Named], most: int, as_json: bool) -> None:
    """Print what would be loaded."""
    from deltatune.serve.deltas.planned import planned

    plan = planned(names, most)
    if as_json:
        output.emit_json(plan)
        return
    known = plan["base_bytes"] is not None
    size = f": {_mib(plan['base_bytes'])}" if known else ""
    output.line(f"base    {plan['base']}{size}")
    for delta in plan["deltas"]:
        output.line(f"delta   {delta['name']}: {_mib(delta['bytes'])}, {delta['folder']}")
    whole = _mib(plan["bytes"]) if known else "the base"
    output.line(f"memory  {whole} with {plan['in_memory']} deltas; and keys and values of what is written")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _greet(pool: Pool, where: str, has_token: bool, as_json: bool) -> None:
    """Say that it is ready, and how it is asked."""
    names = [served.name for served in pool.served]
    first = pool.served[0]
    if as_json:
        output.emit_json({"url": where, "models": names})
        return
    header = ' -H "Authorization: Bearer $DELTATUNE_TOKEN"' if has_token else ""
    output.line(f"Ready at {where}: {', '.join(names)}", "bold")
    apart = [served.name for served in pool.served if not served.mixes]
    if apart:
        output.line(f"In batches of their own, since they cannot share one: {', '.join(apart)}", "dim")
    if first.chats:
        path, said = "v1/chat/completions", '"messages": [{"role": "user", "content": "Hello"}]'
    else:
        path, said = "predict", '"input": "..."'
    output.line(f"\n  curl {where}/{path} -H 'Content-Type: application/json'{header} \\")
    output.line(f'    -d \'{{"model": "{first.name}", {said}}}\'')
    if first.chats:
        key = 'os.environ["DELTATUNE_TOKEN"]' if has_token else '"none"'
        output.line(f'\n  client = openai.OpenAI(base_url="{where}/v1", api_key={key})')
        output.line(f'  client.chat.completions.create(model="{first.name}", messages=[...])')
