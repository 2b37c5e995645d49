"""Commands that print and run nothing: `keys=`, `explain=`, `recipes`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from align.config import fields, source
from align.config.command_line import TYPED, CommandLine
from align.config.compose import Composer
from align.config.hints import did_you_mean, show
from align.config.origins import DEFAULT
from align.config.schema import Recipe
from align.errors import ConfigError


def keys_table(wanted: str, line: CommandLine) -> str:
    """The keys below `wanted`, with type, range, default and meaning.

    Args:
        wanted: `stages.ppo`, `model`, `stages.ppo.lr`; empty for all.
        line: Names the folder of one's own recipes, and the recipe whose stages are meant.

    Raises:
        ConfigError: There is no such key.
    """
    parts = [part for part in wanted.split(".") if part]
    if not parts:
        return _table([row for group in _all_groups() for row in group])
    if parts[0] == "stages" and len(parts) > 1:
        kind = _kind_of(parts[1], line)
        found = fields.rows(fields.STAGES[kind], f"stages.{parts[1]}.")
    elif parts[0] in fields.STAGES:
        found, parts = fields.rows(fields.STAGES[parts[0]], f"stages.{parts[0]}."), ["stages", *parts]
    else:
        found = [row for group in _all_groups() for row in group]
    prefix = ".".join(parts)
    chosen = [row for row in found if row.key == prefix or row.key.startswith(f"{prefix}.")]
    if not chosen:
        raise ConfigError(
            TYPED,
            f"there is no key {wanted!r}",
            did_you_mean(prefix, [row.key for row in found]) or "align keys= lists all",
        )
    return _table(chosen)


def explain(key: str, line: CommandLine) -> str:
    """The value of a key in a recipe and who gave it.

    Raises:
        ConfigError: There is no such key, or the recipe is wrong.
    """
    composed = Composer(line).compose(line.overrides)
    value: object = composed.recipe.model_dump()
    done: list[str] = []
    for part in key.split("."):
        names = _names(value)
        if part not in names:
            where = ".".join(done) or "the recipe"
            hint = did_you_mean(part, names, ".".join([*done, ""])) or f"choose one of {', '.join(names)}"
            raise ConfigError(TYPED, f"{where} has no key {part!r}", hint)
        value = value[int(part)] if isinstance(value, list) else value[part]  # type: ignore[index]
        done.append(part)
    origin = composed.origins(key)
    said = "the default" if origin == DEFAULT else f"set by {origin}"
    return f"{key} = {show(value)}\n{said}"


def recipes_table(line: CommandLine) -> str:
    """Recipes, models, adapters and hardware that can be chosen, each with the first comment of its file."""
    composer = Composer(line)
    sources = [one for one in composer.loader.get_sources() if isinstance(one, source.RecipeSource)]
    lines: list[tuple[str, str]] = []
    for group in ("recipe", "model", "adapter", "hardware"):
        for name in composer.options_of(group):
            place = next(filter(None, (one.locate(f"{group}/{name}") for one in sources)), None)
            lines.append((f"{group}={name}", _first_comment(place[0].head) if place else ""))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name.ljust(width)}  {text}".rstrip() for name, text in lines)


def _names(value: object) -> list[str]:
    if isinstance(value, dict):
        return [str(name) for name in value]
    return [str(i) for i in range(len(value))] if isinstance(value, list) else []


def _first_comment(head: str) -> str:
    for row in head.splitlines():
        text = row.lstrip("# ").strip()
        if row.startswith("#") and text and not text.startswith(("@package", "yaml-language-server")):
            return text
    return ""


def _kind_of(stage: str, line: CommandLine) -> str:
    """The kind of a stage: in the recipe that was given, or in any recipe, or the name is a kind itself."""
    composer = Composer(line)
    chosen = [text.partition("=")[2] for text in line.overrides if text.startswith("recipe=")]
    if stage in fields.STAGES and not chosen:
        return stage
    stages = dict(_stages_of(composer, chosen or composer.options_of("recipe")))
    if stage in stages:
        return stages[stage]
    names = sorted({*stages, *fields.STAGES})
    hint = did_you_mean(stage, names, "stages.") or f"choose one of {', '.join(names)}"
    raise ConfigError(TYPED, f"there is no stage {stage!r}", hint)


def _stages_of(composer: Composer, recipes: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in recipes:
        stages = composer.load([f"recipe={name}"]).get("stages") or {}
        for stage, options in stages.items():
            if options.get("kind") in fields.STAGES:
                yield str(stage), str(options["kind"])


def _all_groups() -> Iterator[list[fields.Row]]:
    yield fields.rows(Recipe, "")
    for group, kinds in fields.TAGGED.items():
        for options in dict.fromkeys(kinds.values()):
            kind = "|".join(name for name, one in kinds.items() if one is options)
            yield [
                fields.Row(row.key, row.type, row.limits, row.default, f"[{kind}] {row.text}".rstrip())
                for row in fields.rows(options, f"{group}.")
            ]
    for kind, options in fields.STAGES.items():
        yield fields.rows(options, f"stages.{kind}.")


def _table(rows: Sequence[fields.Row]) -> str:
    cells = [("key", "type", "range", "default", "meaning")]
    cells += [(row.key, row.type, row.limits, row.default, row.text) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return "\n".join(
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(line[:4], widths, strict=True)), line[4]]
        ).rstrip()
        for line in cells
    )
