"""A stage in progress: its saved states and its metrics.

A saved state is one folder `checkpoint-<step>` with `tensors.safetensors` and `state.json`, committed like
any other artifact. No pickle is written or read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from align.artifacts import manifest as manifests
from align.artifacts.commit import commit, remove, remove_abandoned
from align.artifacts.disk import guard
from align.artifacts.manifest import Manifest
from align.artifacts.metrics import MetricsLog
from align.errors import IntegrityError, NumericsError

if TYPE_CHECKING:
    import torch

KIND = "checkpoint"
TENSORS = "tensors.safetensors"
STATE = "state.json"
METRICS = "metrics.jsonl"
_FIX = "remove the folder to start the stage anew"
Say = Callable[[str], None]
V = TypeVar("V")


class Parts(dict[str, V]):
    """Named parts of a saved state; asking for one that is not there names it."""

    def __init__(self, parts: Mapping[str, V], where: str) -> None:
        super().__init__(parts)
        self.where = where

    def __missing__(self, name: str) -> V:
        raise IntegrityError(self.where, f"the saved state misses {name!r}", _FIX)


@dataclass(frozen=True)
class Checkpoint:
    """A saved state.

    Attributes:
        step: Steps done when it was saved.
        tensors: Name -> tensor.
        state: JSON-able rest.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


class Work:
    """The folder of a stage in progress.

    Attributes:
        folder: `<kind>-<key12>.work`.
        metrics: Rows of the stage so far.
        exact: False once a state was resumed that other versions of the libraries, or another number of
            threads, had written.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        *,
        keep: int = 2,
        stage: str = "",
        ingredients: dict[str, Any] | None = None,
        say: Say = print,
    ) -> None:
        self.folder, self.key, self.stage = folder, key, stage
        self.keep = max(2, keep)
        self.ingredients = ingredients or {}
        self.say = say
        self.exact = True
        self.metrics = MetricsLog(folder / METRICS)
        self._deletion_failed = False

    def side(self, name: str) -> Work:
        """A folder within this one, of states that are saved apart from the stage's own."""
        return Work(
            self.folder / name, self.key, stage=self.stage, ingredients=self.ingredients, say=self.say
        )

    @property
    def checkpoint_exists(self) -> bool:
        """True where a state was saved, whether or not it is still whole."""
        return bool(self._steps())

    def newest(self, say: Say = lambda text: None) -> Manifest | None:
        """Manifest of the newest saved state that verifies; None where none was ever saved.

        Args:
            say: Told which states were skipped, and why; default: nobody.

        Raises:
            IntegrityError: States were saved, but none of them verifies.
        """
        skipped: list[IntegrityError] = []
        steps = self._steps()
        for step in reversed(steps):
            try:
                found = self._verified(step)
            except IntegrityError as error:
                skipped.append(error)
                continue
            for skip in skipped:
                say(f"a broken saved state is skipped, step {step} is used: {skip.where}: {skip.what}")
            return found
        if steps != self._steps():
            return self.newest(say)  # another process goes on in this folder, or has just ended
        if skipped:
            newest = f"{skipped[0].where}: {skipped[0].what}"
            what = f"none of its {len(skipped)} saved states is whole; the newest: {newest}"
            raise IntegrityError(str(self.folder), what, _FIX)
        return None

    def latest(self) -> Checkpoint | None:
        """Load the newest saved state that verifies; says which were skipped, and why.

        Raises:
            IntegrityError: States were saved, but none of them verifies.
        """
        found = self.newest(self.say)
        if found is None:
            return None
        from safetensors.torch import load_file

        folder = self._path(found.info["step"])
        self._compare_circumstances(found)
        with guard(folder):
            tensors = load_file(folder / TENSORS)
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        named = Parts(tensors, str(folder / TENSORS)), Parts(state, str(folder / STATE))
        return Checkpoint(found.info["step"], *named)

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Commit a state, then delete older ones beyond `keep` that verify.

        Args:
            step: Steps done.
            tensors: Name -> tensor of any shape and layout.
            state: Whatever else is needed, as JSON; floats come back bit for bit.

        Raises:
            NumericsError: The state holds a number that is not finite.
            TypeError: The state would not come back from JSON as it is.
            ResourceError: The disk refuses; older states are untouched.
        """
        text = _to_json(state, f"{self.stage or self.folder.name}, state at step {step}")
        arrays = _storable(tensors)
        info = {"step": step, "exact": self.exact, "threads": _threads()}
        needed = len(text) + sum(array.nbytes for array in arrays.values())
        self.metrics.sync()
        with commit(
            self._path(step),
            kind=KIND,
            key=self.key,
            stage=self.stage,
            ingredients=self.ingredients,
            info=info,
            needed=needed,
        ) as out:
            from safetensors.torch import save_file

            save_file(arrays, out / TENSORS)
            (out / STATE).write_text(text, encoding="utf-8")
        self._prune()

    def remove(self) -> None:
        """Delete the folder, once what it was for is durable; failing to do so is one warning."""
        self.metrics.close()
        try:
            remove(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            self.say(f"{self.folder} is no longer needed but could not be deleted: {error.strerror}")

    def _steps(self) -> list[int]:
        """Steps of the folders named like states, in rising order: by number, for clocks go back."""
        found = [re.fullmatch(rf"{KIND}-(\d+)", path.name) for path in self.folder.glob(f"{KIND}-*")]
        return sorted(int(match.group(1)) for match in found if match)

    def _path(self, step: int) -> Path:
        return self.folder / f"{KIND}-{step}"

    def _verified(self, step: int) -> Manifest:
        found = manifests.verify(self._path(step))
        self._belongs(found, step)
        for name in (TENSORS, STATE):
            if name not in found.files:
                raise IntegrityError(str(self._path(step) / name), "missing: it was never saved", _FIX)
        return found

    def _belongs(self, found: Manifest, step: int) -> None:
        if (found.kind, found.key, found.info.get("step")) != (KIND, self.key, step):
            what = f"is the state of another stage ({found.stage or 'unnamed'}, key {found.key[:12]})"
            raise IntegrityError(str(self._path(step)), what, "remove it")

    def _compare_circumstances(self, found: Manifest) -> None:
        now = manifests.versions()
        old = found.versions
        changed = [f"{name} {old[name]} -> {now.get(name)}" for name in old if old[name] != now.get(name)]
        if found.info["threads"] != _threads():
            changed.append(f"threads {found.info['threads']} -> {_threads()}")
        if changed:
            self.say(f"the saved state was made otherwise ({', '.join(changed)}): no longer bit-exact")
        self.exact = self.exact and found.info["exact"] and not changed

    def _prune(self) -> None:
        """Keep the newest `keep` states that verify; of the older ones delete this stage's own."""
        remove_abandoned(self.folder)
        kept = 0
        for step in reversed(self._steps()):
            try:
                if kept < self.keep:
                    self._verified(step)
                    kept += 1
                    continue
                self._belongs(manifests.load(self._path(step)), step)
                remove(self._path(step))
            except IntegrityError:
                continue  # not ours, or broken: neither counts, and both are left for a person to look at
            except OSError as error:
                self._warn_once(self._path(step), error)

    def _warn_once(self, path: Path, error: OSError) -> None:
        if not self._deletion_failed:
            self._deletion_failed = True
            self.say(f"an old saved state could not be deleted; tried again later: {path}: {error.strerror}")


def _threads() -> int:
    """CPU threads that sums are cut into; another number rounds otherwise."""
    import torch

    return torch.get_num_threads()


def _to_json(state: Mapping[str, Any], where: str) -> str:
    """JSON that reads back as the same value: no integer keys, no tuples, no numbers that are not finite."""
    try:
        text = json.dumps(state, allow_nan=False)
    except ValueError as error:
        raise NumericsError(
            where, f"cannot be saved ({error})", "see the metrics for when it began"
        ) from None
    if json.loads(text) != state:
        raise TypeError(f"{where}: JSON does not give the same state back; use lists and string keys")
    return text


def _storable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as safetensors wants them: on the CPU, contiguous, each with its own memory."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().nbytes() != plain.nbytes or plain.data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.data_ptr())
        found[name] = plain
    return found
