"""The store: committed artifacts by kind and key, and the work folders of those in progress."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.artifacts import manifest as manifests
from align.artifacts.commit import set_aside
from align.artifacts.disk import guard
from align.artifacts.manifest import Manifest
from align.artifacts.work import Checkpoint, Work
from align.errors import IntegrityError

__all__ = ["Artifact", "Checkpoint", "Store", "Work"]

SHOWN = 12  # characters of a key in a folder's name
_NAME = re.compile(rf"[a-z_]+-[0-9a-f]{{{SHOWN}}}")

ROWS = "rows.jsonl"  # of an artifact of kind dataset


@dataclass(frozen=True)
class Artifact:
    """A committed folder."""

    path: Path
    manifest: Manifest

    @property
    def kind(self) -> str:
        """What it is: policy, reward, evaluation."""
        return self.manifest.kind

    @property
    def key(self) -> str:
        """The stage key it was made under."""
        return self.manifest.key

    @property
    def stage(self) -> str:
        """Name of the stage that made it."""
        return self.manifest.stage


class Store:
    """Artifacts under one folder, `<kind>-<first 12 of the key>` each.

    Attributes:
        root: The folder.
        say: Told what a person should know, e.g. that an artifact was found broken.
    """

    def __init__(self, root: Path, say: Callable[[str], None] = print) -> None:
        self.root, self.say = root, say

    def path(self, kind: str, key: str) -> Path:
        """Where an artifact lies, or will."""
        return self.root / f"{kind}-{key[:SHOWN]}"

    def find(self, kind: str, key: str, *, look_only: bool = False) -> Artifact | None:
        """The artifact, if it is there and every file is what was committed.

        A broken one is set aside, with a line that says why, and counts as absent.

        Args:
            kind: Kind of artifact.
            key: Its whole key.
            look_only: Say that it is broken, but leave it where it is.
        """
        path = self.path(kind, key)
        if not path.is_dir():
            return None
        try:
            manifest = manifests.verify(path)
            if (manifest.kind, manifest.key) != (kind, key):
                what = f"holds {manifest.kind} {manifest.key}"
                raise IntegrityError(str(path), what, "was it moved here by hand?")
        except IntegrityError as error:
            self._report_broken(path, error, look_only)
            return None
        return Artifact(path, manifest)

    def _report_broken(self, path: Path, error: IntegrityError, look_only: bool) -> None:
        if look_only:
            self.say(f"a broken artifact is not used: {error.where}: {error.what}")
            return
        try:
            with guard(path):
                aside = set_aside(path)
        except FileNotFoundError:
            return  # another run was faster
        self.say(f"a broken artifact was set aside as {aside.name}: {error.where}: {error.what}")

    def work(
        self,
        kind: str,
        key: str,
        keep: int = 2,
        *,
        stage: str = "",
        ingredients: dict[str, Any] | None = None,
    ) -> Work:
        """The folder in which an artifact is being made; it is created when first written to."""
        folder = self._work_folder(kind, key)
        return Work(folder, key, keep=keep, stage=stage, ingredients=ingredients, say=self.say)

    def _work_folder(self, kind: str, key: str) -> Path:
        return self.path(kind, key).with_suffix(".work")

    def all(self) -> list[Artifact]:
        """Every committed artifact, by name; sizes are compared, contents are not hashed."""
        found = []
        for path in sorted(self.root.glob("*-*")):
            if _NAME.fullmatch(path.name) and (manifest := _whole(path)):
                found.append(Artifact(path, manifest))
        return found

    def by_stage(self, stage: str, kind: str) -> list[Artifact]:
        """Committed artifacts of a kind that a stage of this name has made."""
        return [artifact for artifact in self.all() if (artifact.stage, artifact.kind) == (stage, kind)]

    def half_done(self, stage: str, kind: str) -> list[tuple[Manifest, Path]]:
        """Of each work folder that a stage of this name left: the manifest of its newest state, and where."""
        found: list[tuple[Manifest, Path]] = []
        for folder in sorted(self.root.glob(f"{kind}-*.work")):
            states = [manifest for path in folder.glob("checkpoint-*") if (manifest := _whole(path))]
            mine = [manifest for manifest in states if manifest.stage == stage]
            newest = sorted(mine, key=lambda manifest: int(manifest.info["step"]))[-1:]
            found.extend((manifest, folder) for manifest in newest)
        return found


def _whole(path: Path) -> Manifest | None:
    try:
        return manifests.verify(path, deep=False)
    except IntegrityError:
        return None
