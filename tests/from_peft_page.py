"""The tables of docs/how-to/from-peft.md, out of what `adapt` takes over and of the test of peft's files.

python -m tests.from_peft_page      (writes them)
"""

from __future__ import annotations

import re
from pathlib import Path

import peft

from deltatune.integrations.peft_settings import COMMON, SETTINGS, Counterpart
from tests.oracle.peft_adapters import CASES, CONVERTED

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "from-peft.md"


def _config(kind: str) -> str:
    return str(peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)].__name__)


def _rows(settings: dict[str, Counterpart]) -> str:
    lines = ["| peft | here |", "|---|---|"]
    lines += [f"| `{name}` | {found.here} |" for name, found in settings.items()]
    return "\n".join(lines)


def settings() -> str:
    """A table of what many types have, and one for each type."""
    parts = [f"### What many have\n\n{_rows(COMMON)}"]
    for kind, own in SETTINGS.items():
        shown = own if kind != "ADALORA" else {n: c for n, c in own.items() if SETTINGS["LORA"].get(n) != c}
        more = " beside those of `LoraConfig`" if kind == "ADALORA" else ""
        if shown:
            parts.append(f"### `{_config(kind)}`{more}\n\n{_rows(shown)}")
    return "\n\n".join(parts)


def files() -> str:
    """What was saved with peft, on which models, and what became of it here."""
    lines = ["| saved with peft | on | here |", "|---|---|---|"]
    for case in CASES:
        label = case.label.replace("|", "\\|").replace(f"{CONVERTED}=True", "converted")
        became = f"refused ({case.refused})" if case.refused else f"`{case.method}`"
        lines.append(f"| `{label}` | {', '.join(case.on)} | {became} |")
    return "\n".join(lines)


def rendered(page: str) -> str:
    """The page with these tables between its marks."""
    for name, table in (("settings", settings()), ("files", files())):
        pattern = rf"(<!-- {name}: .*? -->\n).*?(\n<!-- end -->)"
        page = re.sub(
            pattern, lambda found, table=table: f"{found[1]}\n{table}\n{found[2]}", page, flags=re.S
        )
    return page


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
