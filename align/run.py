"""The command: `python -m align.run recipe=rlhf`, also installed as `align`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.artifacts.disk import resource_error
from align.errors import AlignError, ConfigError, Interrupted

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from align.config.command_line import CommandLine
    from align.config.compose import Composed

USAGE = """\
Align runs a recipe: a chain of stages that turns a base model into an aligned one.

  align recipe=rlhf                    SFT, a reward model from human rankings, PPO, an evaluation
  align recipe=smoke                   the same chain on a tiny model, in a minute
  align recipe=rlhf plan=true          check everything and show what would run
  align recipe=rlhf stages.ppo.lr=1e-5 change a value
  align recipes                        what can be chosen
  align keys=stages.ppo                the keys of a stage
  align --help                         everything else"""
INTERRUPTED = 130  # what a shell reports for Ctrl-C
EXPORT_KEYS = ("export", "to", "merge", "runs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What was typed after the name of the program; default: from `sys.argv`.

    Returns:
        The exit code: 0, or that of the error (see `align.errors`), or 130 for Ctrl-C before anything ran.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(typed)
        if sys.stdout is not None:  # closed by the shell: `>&-`
            sys.stdout.flush()
        return code
    except AlignError as error:
        return _report(error, debug="debug=true" in typed)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has what it wanted (`align keys= | head`); Python must not flush into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        known = resource_error(error, Path("standard output"))
        if known is None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left cannot be flushed
        return _report(known, debug="debug=true" in typed)


def _report(error: AlignError, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(error, file=sys.stderr)
    return error.exit_code


def _dispatch(typed: list[str]) -> int:
    if not typed:
        print(USAGE, file=sys.stderr)
        return ConfigError.exit_code
    verb = next((word.partition("=")[0] for word in typed if word.partition("=")[0] in _VERBS), None)
    if verb is not None:
        return _VERBS[verb](typed)
    from align.config.command_line import parse

    return _run(parse(typed))


def _take(typed: list[str], verb: str) -> tuple[str, CommandLine]:
    """The verb's value, and the command line without it."""
    from align.config.command_line import parse

    word = next(word for word in typed if word.partition("=")[0] == verb)
    return word.partition("=")[2], parse([other for other in typed if other is not word])


def _keys(typed: list[str]) -> int:
    from align.config.listing import keys_table

    wanted, line = _take(typed, "keys")
    print(keys_table(wanted, line))
    return 0


def _explain(typed: list[str]) -> int:
    from align.config.listing import explain

    key, line = _take(typed, "explain")
    if not key:
        raise ConfigError(
            "command line", "explain= names no key", "for example explain=stages.ppo.lr recipe=rlhf"
        )
    print(explain(key, line))
    return 0


def _recipes(typed: list[str]) -> int:
    from align.config.listing import recipes_table

    print(recipes_table(_take(typed, "recipes")[1]))
    return 0


def _export(typed: list[str]) -> int:
    from align.config.hints import did_you_mean

    given: dict[str, str] = {}
    for word in typed:
        name, _, value = word.partition("=")
        if name in EXPORT_KEYS and not value:
            raise ConfigError("command line", f"{name}= has no value", f"give {name}=VALUE")
        if name not in EXPORT_KEYS:
            hint = did_you_mean(name, EXPORT_KEYS) or "align export=STAGE to=FOLDER merge=true runs=runs"
            raise ConfigError("command line", f"{word!r} is no option of export", hint)
        given[name] = value
    merge = given.get("merge", "false")
    if "to" not in given or "export" not in given:
        raise ConfigError("command line", "export names no folder", "align export=STAGE to=FOLDER merge=true")
    if merge not in ("true", "false"):
        raise ConfigError("command line", f"merge={merge} is neither true nor false", "give merge=true")
    from align.models.export import export

    export(given["export"], Path(given["to"]), merge == "true", Path(given.get("runs", "runs")))
    return 0


_VERBS: dict[str, Callable[[list[str]], int]] = {
    "keys": _keys,
    "explain": _explain,
    "recipes": _recipes,
    "export": _export,
}


def _run(line: CommandLine) -> int:
    """Check everything, then let Hydra do what its flags say."""
    from align.config.compose import Composer

    composer = Composer(line)
    composed: list[Composed] = []
    if line.options.cfg or not line.only_shows:
        composed = composer.compose_all()
    elif not line.options.shell_completion:
        composer.load(line.overrides)  # help and info need no checked recipe, but files that can be read
    overrides = _for_hydra(composer, line)
    if line.only_shows:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            code = _enter_hydra(line, overrides, composed)
        sys.stdout.write(shown.getvalue())
        return code
    with tempfile.TemporaryDirectory(prefix="align-sweep-") as folder:
        sweep = [f"hydra.sweep.dir={folder}"] if line.many else []  # Hydra writes multirun.yaml there
        return _enter_hydra(line, [*sweep, *overrides], composed)


def _for_hydra(composer: Any, line: CommandLine) -> list[str]:
    from align.config import command_line

    if line.options.shell_completion:
        return line.overrides
    if line.options.hydra_help:
        return []  # it describes Hydra alone, which knows no recipe
    return command_line.for_hydra(line.overrides, composer.groups)


def _enter_hydra(line: CommandLine, overrides: Sequence[str], composed: Sequence[Composed]) -> int:
    """Hydra's own entry, which reads `sys.argv`. Returns the worst exit code of the runs."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from align.config.compose import PRIMARY, in_one_line
    from align.config.source import RECIPES

    codes: list[int] = []

    def task(config: DictConfig) -> None:
        codes.append(_run_recipe(config, line, composed))
        if codes[-1] == Interrupted.exit_code:
            raise SystemExit(Interrupted.exit_code)  # stop the whole sweep

    entry = hydra.main(version_base="1.3", config_path=str(RECIPES), config_name=PRIMARY)(task)
    with _arguments([*line.flags, *overrides]):
        try:
            entry()
        except SystemExit as end:
            codes.append(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
        except (HydraException, OmegaConfBaseException) as error:
            raise in_one_line(error) from None
    return max(codes, default=0)


@contextlib.contextmanager
def _arguments(words: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = [before[0], *words]
    try:
        yield
    finally:
        sys.argv = before


def _run_recipe(config: DictConfig, line: CommandLine, checked: Sequence[Composed]) -> int:
    """What Hydra calls for each run. Errors end here: Hydra would print a traceback."""
    from hydra.core.hydra_config import HydraConfig

    from align.config.compose import Composer, card_folders, to_recipe

    recipe = to_recipe(config)
    overrides = [text.removeprefix("++") for text in HydraConfig.get().overrides.task]
    composed = next((one for one in checked if one.recipe == recipe), None)
    try:
        from align.data.cards import add_folder
        from align.pipeline.runner import run
        from align.reward import functions

        for folder in card_folders(line):
            add_folder(folder)
        if line.rewards_from is not None:
            functions.load(line.rewards_from)
        if composed is None:  # a sweeper of the user's chose values that are not on the command line
            composed = Composer(line).compose(overrides)
        code: int = run(recipe, overrides, composed.origins)
        return code
    except AlignError as error:
        return _report(error, debug=recipe.debug)
    except Exception as error:  # a mistake of the program: all that is known helps to find it
        traceback.print_exception(error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
