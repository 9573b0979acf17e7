"""Reading the YAML of recipes and overrides: the core rules of version 1.2, within limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from deltatune.errors import RecipeError

MOST_NODES = 100_000
"""Values of a document, with everything that an alias repeats: 585 bytes can stand for 10^8."""
DEEPEST = 50
"""Levels of a document; recipes have about six."""


class Loader(yaml.SafeLoader):
    """YAML with the core rules of version 1.2: `1e-3` is a number, `no` is a text, a key stands once."""

    def get_single_data(self) -> Any:
        """Check the size of the document before anything is made of it."""
        node = self.get_single_node()
        if node is None:
            return None
        _size(node, {}, ())
        return self.construct_document(node)


_OLD_RULES = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "timestamp"))
Loader.yaml_implicit_resolvers = {
    character: [(tag, pattern) for tag, pattern in rules if tag not in _OLD_RULES]
    for character, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False)$"), list("tfTF")
)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789")
)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$"
    ),
    list("-+0123456789."),
)


def _mapping(loader: Loader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise _error("this is no mapping", node)
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *defaults`; own keys override it
            continue
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if not isinstance(key, str | int | float):
            raise _error("a key must be a plain text", key_node)
        if key in seen:
            raise _error(f"the key {key!r} stands twice, in line {seen[key]} and in line {line}", key_node)
        seen[key] = line
    mapping: dict[Any, Any] = yaml.SafeLoader.construct_mapping(loader, node, deep=True)
    return mapping


Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse_yaml(text: str, where: str) -> Any:
    """Read one document.

    Args:
        text: The YAML.
        where: What it is, for messages: a file, or `--set FIELD`.

    Raises:
        RecipeError: It is not YAML, is larger or nested more deeply than recipes are, or a value cannot be
            what its tag says.
    """
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" in line {mark.line + 1}" if mark else ""
        raise RecipeError(f"is not valid YAML{line}: {error.problem}.", field=where) from error
    except RecursionError as error:
        raise _too_deep(where) from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        # PyYAML's own constructors raise what Python does: `!!int abc`, numbers of 5,000 digits, "\U00110000"
        raise RecipeError(f"is not valid YAML: {_shortened(error)}.", field=where) from error


def _size(node: yaml.Node, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Count the values that `node` stands for; `known` has those that were counted already."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in above:
        raise _error("a value contains itself", node)
    if len(above) >= DEEPEST:
        raise _error(f"the values are nested more than {DEEPEST} levels deep", node)
    size = 1
    for part in _parts(node):
        size += _size(part, known, (*above, id(node)))
        if size > MOST_NODES:
            raise _error(f"aliases and all, there are more than {MOST_NODES:,} values", node)
    known[id(node)] = size
    return size


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _too_deep(where: str) -> RecipeError:
    return RecipeError(
        "is nested too deeply.", field=where, remedy="Close brackets; a recipe has a few levels."
    )


def _shortened(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]} ..."
