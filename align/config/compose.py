"""From a command line to checked recipes: Hydra composes, pydantic decides, all errors come at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from align.config import command_line, source
from align.config.command_line import TYPED, CommandLine
from align.config.hints import did_you_mean
from align.config.origins import Layer, Origins
from align.config.plain import to_plain
from align.config.refuse import Finding
from align.config.schema import Recipe
from align.config.source import RecipeSource
from align.config.validate import validate
from align.config.yaml_reader import shown
from align.errors import AlignError, ConfigError, Problems

PRIMARY = "config"


class RecipeErrors(Problems):
    """Everything wrong with a command line and the recipe it names, with a last line that says what to do."""

    def __init__(self, errors: Sequence[AlignError], key: str) -> None:
        super().__init__(errors)
        count = f"{len(errors)} error{'s' if len(errors) > 1 else ''}"
        self.args = (f"{self}\n{count}, nothing was run. List keys: align keys={key}",)


@dataclass
class Composed:
    """A recipe and where its values come from."""

    recipe: Recipe
    origins: Origins


class Composer:
    """Composes recipes from the shipped folder and, beside it, the user's own."""

    def __init__(self, line: CommandLine) -> None:
        source.install()
        self.line = line
        self.primary = line.options.config_name or PRIMARY
        path = create_config_search_path(line.options.config_path or str(source.RECIPES))
        if line.config_dir:
            path.prepend(
                "command-line", f"file://{line.config_dir}", anchor=SearchPathQuery(provider="schema")
            )
        self.loader = ConfigLoaderImpl(config_search_path=path)
        self.groups = [name for name in self.loader.list_groups("") if name != "hydra"]

    def compose(self, overrides: Sequence[str]) -> Composed:
        """One recipe.

        Args:
            overrides: As typed, without sweeps.

        Raises:
            RecipeErrors: Anything is wrong with it.
        """
        composed, errors, key = self._try(_readable(overrides))
        if composed is None:
            raise RecipeErrors(sorted(errors, key=_place), key)
        return composed

    def compose_all(self) -> list[Composed]:
        """Every recipe that the command line asks for: several where it sweeps.

        Raises:
            RecipeErrors: Anything is wrong with any of them; an error that several share stands once.
        """
        readable = _readable(self.line.overrides)
        runs = command_line.combinations(readable) if self.line.many else [readable]
        found: list[Composed] = []
        errors: dict[str, AlignError] = {}
        first_key = ""
        for overrides in runs:
            composed, wrong, key = self._try(overrides)
            found += [composed] if composed else []
            errors.update({str(error): error for error in wrong})
            first_key = first_key or key
        if errors:
            raise RecipeErrors(sorted(errors.values(), key=_place), first_key)
        return found

    def load(self, overrides: Sequence[str]) -> DictConfig:
        """What Hydra composes, unchecked.

        Raises:
            ConfigError: A file that cannot be read, or a group or option that is not there.
        """
        forced = command_line.for_hydra(overrides, self.groups)
        try:
            return self.loader.load_configuration(self.primary, forced, RunMode.RUN)
        except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
            raise in_one_line(error) from None
        except RecursionError:
            what = "its defaults lead back to itself"
            raise ConfigError("recipe", what, "let no recipe build on one that builds on it") from None

    def options_of(self, group: str) -> list[str]:
        """Names that can be chosen in a group."""
        return self.loader.get_group_options(group, ObjectType.CONFIG)

    def _try(self, overrides: Sequence[str]) -> tuple[Composed | None, list[AlignError], str]:
        """The recipe, or what is wrong with it and the key whose list of keys would help."""
        findings = list(self.line.findings)
        wrong_choices = self._wrong_choices(overrides)
        if wrong_choices:  # there is nothing to compose
            return None, _errors([*findings, *wrong_choices], None), ""
        try:
            composed = self.load(overrides)
            origins = Origins(self._layers(overrides), self._value_overrides(overrides))
        except AlignError as error:
            return None, [*_errors(findings, None), error], ""
        findings += [problem for document in source.documents() for problem in document.problems]
        plain = to_plain(composed)
        checked = validate(plain.values, origins.raw)
        # of two findings on a key, the first is the cause and the other what follows from it
        findings = _once([*findings, *plain.unresolved, *checked.findings, *plain.missing])
        if findings or checked.recipe is None:
            return None, _errors(findings, origins), _keys_of(findings)
        return Composed(checked.recipe, origins), [], ""

    def _wrong_choices(self, overrides: Sequence[str]) -> list[Finding]:
        """A recipe, model, ... that does not exist, several values without -m, or no recipe at all."""
        findings: list[Finding] = []
        chosen: set[str] = set()
        for text in overrides:
            override = command_line.parse_override(text)
            group, value = override.key_or_group, override.value()
            if override.is_sweep_override():
                fix = "add -m for one run of each, or brackets for a list: key=[a,b]"
                findings.append(Finding(group, f"{text.partition('=')[2]} are several values", fix, TYPED))
            elif group == "model.kind":
                findings.append(Finding(group, "a model is chosen as a whole", "write model=NAME", TYPED))
            elif group in self.groups and not override.is_delete():
                chosen.add(group)
                findings += self._check_choice(group, value, added=bool(override.package))
        recipes = ", ".join(self.options_of("recipe"))
        if "recipe" not in chosen:
            findings.append(
                Finding("recipe", "no recipe was chosen", f"give recipe=NAME, one of {recipes}", TYPED)
            )
        return findings

    def _check_choice(self, group: str, value: object, *, added: bool) -> list[Finding]:
        known = self.options_of(group)
        names = value if isinstance(value, list) else [value]
        findings = [
            Finding(group, f"there is no {group} {name!r}", _near_or_all(str(name), known), TYPED)
            for name in names
            if name not in known
        ]
        if group == "stage" and not added:
            findings.append(Finding(group, "a stage needs a name", "write +stage@stages.NAME=KIND", TYPED))
        return findings

    def _layers(self, overrides: Sequence[str]) -> list[Layer]:
        """The documents that Hydra merged, in order.

        Raises:
            ConfigError: Two files of the same name could be meant.
        """
        forced = command_line.for_hydra(overrides, self.groups)
        sources = [one for one in self.loader.get_sources() if isinstance(one, RecipeSource)]
        layers: list[Layer] = []
        for item in self.loader.compute_defaults_list(self.primary, forced, RunMode.RUN).defaults:
            found = [place for place in (one.locate(item.config_path or "") for one in sources) if place]
            if len({document.path for document, _ in found}) > 1:
                names = " and ".join(shown(document.path) for document, _ in found)
                raise ConfigError(names, f"both are {item.config_path}", "rename yours")
            if found:
                package = tuple(part for part in (item.package or "").split(".") if part)
                document, inside = found[0]
                without = frozenset() if inside else source.written_out(document)
                layers.append(Layer(package, document, inside, without))
        return layers

    def _value_overrides(self, overrides: Sequence[str]) -> list[Override]:
        parsed = [command_line.parse_override(text) for text in overrides]
        return [one for one in parsed if one.package is not None or one.key_or_group not in self.groups]


def card_folders(line: CommandLine) -> list[Path]:
    """The `data_cards` folder beside the user's own recipes, where there is one."""
    folder = line.config_dir / "data_cards" if line.config_dir else None
    return [folder] if folder and folder.is_dir() else []


def to_recipe(config: DictConfig) -> Recipe:
    """The recipe in what Hydra hands to a task; it was checked before."""
    return Recipe.model_validate(to_plain(config).values)


def _readable(overrides: Sequence[str]) -> list[str]:
    """The overrides that are not refused by themselves, so that errors in the rest show as well."""
    return [text for text in overrides if not command_line.check_override(text)]


def _near_or_all(name: str, known: Sequence[str]) -> str:
    return did_you_mean(name, known) or f"choose one of {', '.join(known)}"


def _once(findings: Sequence[Finding]) -> list[Finding]:
    """The first finding of each key."""
    first: dict[str, Finding] = {}
    for finding in findings:
        first.setdefault(finding.key or f"{finding.where} {finding.what}", finding)
    return list(first.values())


def _errors(findings: Sequence[Finding], origins: Origins | None) -> list[AlignError]:
    errors: list[AlignError] = []
    for finding in findings:
        where = finding.where or (origins.nearest(finding.key) if origins else TYPED)
        what = f"{finding.key}: {finding.what}" if finding.key else finding.what
        errors.append(ConfigError(where, what, finding.fix))
    return errors


def _place(error: AlignError) -> tuple[bool, str, int]:
    """Files from top to bottom, then the command line."""
    file, _, line = error.where.partition(":")
    return error.where == TYPED, file, int(line) if line.isdigit() else 0


def _keys_of(findings: Sequence[Finding]) -> str:
    """`stages.ppo` for the first finding in a stage, `model` for one in the model."""
    for finding in findings:
        parts = finding.key.split(".")
        if parts[0] == "stages" and len(parts) > 2:
            return ".".join(parts[:2])
        if parts[0] in ("model", "adapter", "hardware"):
            return parts[0]
    return ""


def in_one_line(error: Exception) -> ConfigError:
    """What Hydra says, without its list of folders and its advice to add an unknown key with `+`."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        fix = _near_or_all(name, list(error.options or [])) if error.options else "check the defaults list"
        return ConfigError(_where_chosen(name), f"there is no {group or 'config'} {name!r}", fix)
    cause = error.__cause__ if error.__cause__ is not None and not str(error) else error
    text = " ".join(line for line in str(cause).splitlines() if "use +" not in line)
    asked = re.search(r"invalid literal for int\(\) with base 10: '(\w+)'", text)
    if asked:  # `stages.sft.data.limit=5`
        name = asked.group(1)
        fix = f"name the source by its place, the first as in stages.sft.data.0.{name}=..."
        return ConfigError(TYPED, f"{name!r} is a key of one source, and data is a list of them", fix)
    what, _, advice = " ".join(text.split()).partition(". ")
    return ConfigError("recipe", what or type(error).__name__, advice or "see align --help")


def _where_chosen(name: str) -> str:
    """The line of the defaults list that asks for `name`."""
    for document in source.documents():
        listed = document.data.get("defaults")
        for i, item in enumerate(listed if isinstance(listed, list) else []):
            if name in (item.values() if isinstance(item, dict) else [item]):
                return f"{shown(document.path)}:{document.lines.get(('defaults', str(i)), 1)}"
    return "recipe"
