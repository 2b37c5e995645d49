"""Where Hydra gets its files from: read strictly, with every default filled in.

Three things differ from Hydra's own file source:

* A stage, model or adapter with a `kind` holds all keys of that kind, so that `--cfg job` shows every value.
  In a recipe that builds on another one, leave `kind` out to change only what is written.
* A file in `recipe/` stands at the root of the configuration, whether or not it says `# @package _global_`.
* A recipe may spell out its model or adapter (`model: {kind: path, path: ...}`). It then counts as a choice
  of that group: it replaces the default, and `model=tiny` on the command line replaces it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from align.config import fields
from align.config.command_line import DATA_KEYS
from align.config.refuse import Finding
from align.config.schema import Recipe
from align.config.yaml_reader import Document, Key, read, shown

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
WRITTEN_OUT = "of_recipe_"  # model/of_recipe_mine: the model that recipe/mine.yaml spells out

_documents: dict[Path, Document] = {}


def document(path: Path) -> Document:
    """The file, read once in a process, so that what was checked is what is run."""
    if path not in _documents:
        _documents[path] = read(path)
    return _documents[path]


def documents() -> list[Document]:
    """Every file read so far."""
    return list(_documents.values())


def install() -> None:
    """Make Hydra use this source, forget files read before, and offer the group `stage`."""
    _documents.clear()
    Plugins.instance()  # registers Hydra's own sources, which must come first
    SourcesRegistry.instance().types["file"] = RecipeSource
    store = ConfigStore.instance()
    for kind, options in fields.STAGES.items():
        store.store(group="stage", name=kind, node=fields.filled({"kind": kind}, options), provider="align")


class RecipeSource(FileConfigSource):
    """Hydra's source for folders of recipes."""

    def locate(self, config_path: str) -> tuple[Document, Key] | None:
        """The document that `config_path` comes from, and the key within it (empty: all of it)."""
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        if not name.startswith(WRITTEN_OUT):
            path = Path(self.path) / self._normalize_file_name(config_path)
            return (document(path), ()) if path.is_file() else None
        recipe = Path(self.path) / "recipe" / f"{name.removeprefix(WRITTEN_OUT)}.yaml"
        if group in fields.TAGGED and recipe.is_file() and _spells_out(document(recipe), group):
            return document(recipe), (group,)
        return None

    def is_config(self, config_path: str) -> bool:
        """True for a file, and for a model or adapter that a recipe spells out."""
        if Path(config_path).name.startswith(WRITTEN_OUT):
            return self.locate(config_path) is not None
        return super().is_config(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        """Read, check and complete one file.

        Raises:
            ConfigError: The file cannot be read as YAML, or is beyond the limits.
        """
        found = self.locate(config_path)
        if found is None:
            return super().load_config(config_path)  # says in Hydra's words that there is no such file
        source, inside = found
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        data = _part(source, inside)
        header: dict[str, str | None] = {"package": None}
        if not inside:
            header = ConfigSource._get_header_dict(source.head)
        if group == "recipe":
            data = _complete_recipe(data, name, source)
            header["package"] = header["package"] or "_global_"
        elif group in fields.TAGGED:
            data = _complete(data, fields.TAGGED[group])
        elif group == "hardware":
            data = fields.filled(data, fields.HARDWARE)
        elif not group:
            data = {**{key: Recipe.model_fields[key].default for key in _optional_keys()}, **data}
        if "hydra" in data and not group.startswith("hydra"):
            primary = not group and self.provider == "main"
            if not (primary and isinstance(data["hydra"], dict)) or "searchpath" in data["hydra"]:
                _refuse_hydra(source)
                del data["hydra"]
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{self.path}",
            config=OmegaConf.create(data),
            header=header,
        )


def _part(source: Document, inside: Key) -> dict[str, Any]:
    data: Any = source.data
    for name in inside:
        data = data[name]
    return dict(data)


def written_out(source: Document) -> frozenset[str]:
    """The groups whose choice a recipe spells out, rather than naming it."""
    return frozenset(group for group in fields.TAGGED if _spells_out(source, group))


def _spells_out(source: Document, group: str) -> bool:
    written = source.data.get(group)
    return isinstance(written, dict) and "kind" in written


def _optional_keys() -> list[str]:
    return [name for name in fields.TOP_LEVEL if not Recipe.model_fields[name].is_required()]


def _complete(given: Any, kinds: dict[str, Any]) -> Any:
    """Defaults beneath a mapping whose `kind` is known; anything else is left for the checks to refuse."""
    if not isinstance(given, dict):
        return given
    options = kinds.get(given["kind"]) if isinstance(given.get("kind"), str) else None
    return fields.filled(given, options) if options else given


def _complete_recipe(data: dict[str, Any], name: str, source: Document) -> dict[str, Any]:
    full = {**data, "recipe": name}
    if isinstance(data.get("stages"), dict):
        stages = {stage: _listed(given) for stage, given in data["stages"].items()}
        full["stages"] = {stage: _complete(given, fields.STAGES) for stage, given in stages.items()}
    groups = sorted(written_out(source))
    for group in groups:
        del full[group]
    chosen = [{f"override /{group}": f"{WRITTEN_OUT}{name}"} for group in groups]
    if chosen and isinstance(full.get("defaults", []), list):
        full["defaults"] = [*full.get("defaults", []), *chosen]
    return full


def _listed(stage: Any) -> Any:
    """One source of data as a list of one, since Hydra can put a list over a list, but not over a mapping."""
    if not isinstance(stage, dict):
        return stage
    return {k: [v] if k in DATA_KEYS and isinstance(v, dict) else v for k, v in stage.items()}


def _refuse_hydra(source: Document) -> None:
    line = source.lines.get(("hydra",), 1)
    finding = Finding(
        "hydra", "is Hydra's own", "give it on the command line", f"{shown(source.path)}:{line}"
    )
    if finding not in source.problems:
        source.problems.append(finding)
