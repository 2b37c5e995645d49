"""Write an artifact as weights that open anywhere: the adapter merged into its base."""

from __future__ import annotations

import glob
import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from align.artifacts.disk import guard
from align.artifacts.manifest import verify
from align.errors import ConfigError, NumericsError, ResourceError
from align.models import adapters
from align.models.policy import load_checked
from align.models.reward_model import STEPS, THRESHOLDS

TOLERANCE = 1e-4  # of the largest logit: merging adds in another order
PROBE = "The quick brown fox jumps over the lazy dog."


def export(source: str, to: Path, merge: bool, runs: Path) -> Path:
    """Copy an artifact, or merge its adapter, into a new folder.

    Args:
        source: A stage's name (its newest artifact is taken), or the path of an artifact or of a link to one.
        to: A folder that does not exist yet.
        merge: Merge the adapter into the base; without, files are copied.
        runs: Folder of runs and artifacts, where stage names are looked up.

    Returns:
        `to`.

    Raises:
        ConfigError: Nothing of that name, or `to` exists.
        NumericsError: The merged model answers differently.
    """
    folder = _find(source, runs)
    manifest = verify(folder)
    if manifest.kind not in ("policy", "reward"):
        raise ConfigError(
            f"export={source}", f"is an artifact of kind {manifest.kind}", "export a policy or a reward model"
        )
    with guard(to):
        if to.exists():
            raise ConfigError(f"to={to}", "exists", "give a folder that does not")
        temporary = to.with_name(f".{to.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
        except FileNotFoundError:  # where the system makes folders itself, as in /proc
            raise ResourceError(str(to), "cannot be made there", "give another folder") from None
        _write(folder, temporary, to, manifest.kind, merge)
    return to


def _write(folder: Path, temporary: Path, to: Path, kind: str, merge: bool) -> None:
    try:
        if merge and (folder / "adapter_config.json").exists():
            _merge(folder, temporary, kind)
        else:
            _copy(folder, temporary)
        temporary.rename(to)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _find(source: str, runs: Path) -> Path:
    folder = Path(source)
    if (folder / "manifest.json").exists():
        return folder.resolve()
    found = [] if "/" in source else runs.glob(f"*/stages/{glob.escape(source)}")
    links = sorted(found, key=lambda p: p.lstat().st_mtime)
    if not links:
        names = sorted({p.name for p in runs.glob("*/stages/*")})
        known = f"stages of {runs}: {', '.join(names)}" if names else f"{runs} holds no run yet"
        raise ConfigError(
            f"export={source}", "is neither an artifact's folder nor a stage that has run", known
        )
    return links[-1].resolve()


def _copy(folder: Path, to: Path) -> None:
    for path in folder.iterdir():
        if path.is_file() and path.name != "manifest.json":
            shutil.copy2(path, to / path.name)


@torch.no_grad()
def _merge(folder: Path, to: Path, kind: str) -> None:
    """Merge, compare logits before and after on a probe, save, and compare what was saved."""
    base = Path(adapters.base_of(folder))
    adapters.refuse_unmergeable(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROBE, return_tensors="pt")["input_ids"]
    auto = AutoModelForCausalLM if kind == "policy" else AutoModelForSequenceClassification
    config = {} if kind == "policy" else {"config": AutoConfig.from_pretrained(folder)}
    plain, _ = load_checked(auto, base, **config)
    peft = adapters.load(plain, folder, trainable=False).eval()
    before = peft(input_ids=ids).logits
    merged: nn.Module = peft.merge_and_unload()
    merged.save_pretrained(to)  # type: ignore[operator]
    tokenizer.save_pretrained(to)
    for name in ("generation_config.json", STEPS, THRESHOLDS):
        if (folder / name).exists():
            shutil.copy2(folder / name, to / name)
    again, _ = load_checked(auto, to)
    gap = float((again.eval()(input_ids=ids).logits - before).abs().max() / before.abs().max())
    if gap > TOLERANCE:
        raise NumericsError(
            f"export of {folder.name}", f"merged logits differ by {gap:.2g}", "export without merge=true"
        )
