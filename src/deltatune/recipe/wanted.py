"""What the recipe in a run's folder would have this machine do: load a model, run its code, read files.

A run may come from a stranger. Then its recipe is not the user's word: it may ask, and the user decides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deltatune.errors import AdapterError
from deltatune.recipe.base_sections import ModelSpec
from deltatune.recipe.load import PATH_FIELDS, is_remote, load_recipe, read_recipe
from deltatune.recipe.schema import Recipe

FILE = "recipe.yaml"
_OWN = "Put back the recipe that the run wrote."


@dataclass(frozen=True)
class Wanted:
    """What a run's recipe refers to."""

    model: str
    """As the recipe names it."""
    loaded_from: str
    """Where that leads, in words."""
    revision: str | None
    runs_code: bool
    """Whether Python code that comes with the model shall run."""
    reads: list[str]
    """Data that `evaluate` and `merge` read."""

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def wanted(folder: Path) -> Wanted:
    """Say what the recipe in `folder` refers to.

    Raises:
        RecipeError: There is no recipe, or it breaks a rule.
        AdapterError: It names a model by a path out of the folder.
    """
    recipe = _of_one_run(folder)
    return Wanted(
        model=_written(folder) or recipe.model.name,
        loaded_from=_origin(_model_of(recipe, folder), folder),
        revision=recipe.model.revision,
        runs_code=recipe.model.trust_remote_code,
        reads=[name for field in PATH_FIELDS if (name := getattr(recipe.data, field))],
    )


def run_recipe(folder: Path, *, trust_remote_code: bool = False) -> Recipe:
    """Read the recipe of a run, to load its base again.

    Args:
        folder: The run's folder.
        trust_remote_code: Whether the user, not the recipe, says that code of the model's own may run.

    Raises:
        RecipeError: There is no recipe, or it breaks a rule.
        AdapterError: It wants to run code, which the user did not allow; or it names a model by a path out of
            the folder.
    """
    recipe = _of_one_run(folder)
    model = _model_of(recipe, folder)
    if model.trust_remote_code and not trust_remote_code:
        raise AdapterError(
            f"the run in '{folder}' wants to run Python code that comes with its model: "
            f"{_origin(model, folder)}.",
            field="--trust-remote-code",
            remedy="If you know that code and trust it, add --trust-remote-code; what the run's own recipe "
            "says does not count.",
        )
    allowed = model.model_copy(update={"trust_remote_code": trust_remote_code})
    return recipe.model_copy(update={"model": allowed})


def _of_one_run(folder: Path) -> Recipe:
    """The recipe in `folder`, which is that of one run: of one entry, on the one base that it names.

    Raises:
        RecipeError: There is no recipe, or it breaks a rule.
        AdapterError: It has several entries; or one with a base of its own, which nobody has looked at.
    """
    path = folder / FILE
    if path.exists() and not path.is_file():  # a pipe would never end
        raise AdapterError(f"'{path}' is no file.", remedy=_OWN)
    recipe = load_recipe(path)
    what = ""
    if len(recipe.methods) != 1:
        what = f"has {len(recipe.methods)} methods, and a run is of one."
    elif recipe.methods[0].model is not None:
        what = "has a model of its own in its method; a run's is the recipe's."
    if what:
        raise AdapterError(f"the recipe in '{folder}' {what}", field=str(path), remedy=_OWN)
    return recipe


def _model_of(recipe: Recipe, folder: Path) -> ModelSpec:
    """The model; a relative path leads from the run's folder to somewhere within it, or is refused.

    Our own runs hold absolute paths. A relative one is of a folder that was packed to be passed on.
    """
    written = _written(folder)
    if written is None:
        return recipe.model
    path = Path(recipe.model.name)
    if not path.is_relative_to(folder.resolve()):
        raise AdapterError(
            f"the recipe of the run names the model {written!r}, which leads out of its folder.",
            field=str(folder / FILE),
            remedy="Write there the full path, or the Hub's id, of the base that you mean.",
        )
    return recipe.model


def _written(folder: Path) -> str | None:
    """The model's name as it stands in the recipe, if that is a relative path."""
    content = read_recipe(folder / FILE)
    model = content.get("model") if isinstance(content, dict) else None
    name = model.get("name") if isinstance(model, dict) else model
    return name if isinstance(name, str) and name.startswith(("./", "../")) else None


def _origin(model: ModelSpec, folder: Path) -> str:
    name = model.name
    path = Path(name).expanduser()
    if is_remote(name):
        return name
    if path.is_absolute() and path.is_relative_to(folder.resolve()):
        return f"the folder '{path}', which came with the run"
    if path.exists() or path.is_absolute():
        return f"'{path.absolute()}' on this machine"
    return f"'{name}' of the Hugging Face Hub" + (f", revision {model.revision}" if model.revision else "")
