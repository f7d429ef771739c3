"""The folder of a checkpoint: its JSON files, and the files that hold its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import UserError

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The files that may hold weights, or name the files that do. The first that is there counts, as for transformers."""
DESCRIPTIONS = (
    "config.json",
    "vocab.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
"""The small files that say what a checkpoint is."""
SHIPPED = Path(__file__).resolve().parents[2] / "shipped" / "model"
"""The checkpoint that comes with the package: the model for spoken digits."""
_POINTER = b"version https://git-lfs"


def adapter_names(language: str) -> tuple[str, str]:
    """The files that may hold the weights of a language; the first that is there counts."""
    return f"adapter.{language}.safetensors", f"adapter.{language}.bin"


@dataclass(frozen=True)
class Folder:
    """A folder with a checkpoint.

    Attributes:
        said: The checkpoint as it was typed, `model.checkpoint=...`, which begins every message.
        path: The folder.
        pinned: `owner/name@commit` where the folder is a snapshot of a repository; `None` for a folder of one's own.
        name: The name that it was asked for by, or that of the folder.
    """

    said: str
    path: Path
    pinned: str | None
    name: str

    def refusal(self, reason: str) -> UserError:
        """The error that refuses this checkpoint; `reason` ends with what to do."""
        return UserError(f"{self.said}: {reason}")

    def find(self, name: str) -> Mapping[str, Any] | None:
        """Read a JSON file of the folder; `None` if it is not there.

        Raises:
            UserError: The file cannot be read, or holds no JSON object.
        """
        try:
            content = json.loads((self.path / name).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self.refusal(f"{name} cannot be read ({error.strerror}); make it readable") from None
        except (ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            raise self.refusal(f"{name} is damaged: it is no JSON ({reason}); fetch or save it again") from None
        if not isinstance(content, dict):
            raise self.refusal(f"{name} holds no JSON object; fetch or save it again")
        return content

    def weights_files(self) -> tuple[Path, ...]:
        """The files that hold the weights, in the order of their names: one, or the shards.

        Raises:
            UserError: There are none, or an index names files outside the folder.
        """
        name = next((name for name in WEIGHTS if (self.path / name).is_file()), None)
        if name is None:
            raise self.refusal(
                f"no weights in {self.path}; it needs {WEIGHTS[0]} or {WEIGHTS[2]}, which "
                f"model.save_pretrained(DIR) writes"
            )
        names = self._shards(name) if name.endswith(".index.json") else [name]
        return tuple(self.path / name for name in names)

    def has_adapter(self, language: str) -> bool:
        """Whether a language has a file of its own; a repository is taken to have it until it is fetched."""
        return self.pinned is not None or any((self.path / name).is_file() for name in adapter_names(language))

    def adapter_file(self, language: str) -> Path:
        """The file with the adapters and the head of a language.

        Raises:
            UserError: It is not there.
        """
        for name in adapter_names(language):
            if (self.path / name).is_file():
                return self.path / name
        there = sorted(path.name.split(".")[1] for path in self.path.glob("adapter.*") if path.is_file())
        others = f"the languages with weights there are {', '.join(there[:8])}" if there else "put it there"
        raise self.refusal(f"model.language={language}: {adapter_names(language)[0]} is not in {self.path}; {others}")

    def _shards(self, index: str) -> list[str]:
        """The files that an index names."""
        content = self.find(index) or {}
        placed = content.get("weight_map")
        if not isinstance(placed, dict) or not placed or not all(isinstance(file, str) for file in placed.values()):
            raise self.refusal(f"{index} has no weight_map that says where each tensor is; fetch or save it again")
        names = sorted(set(placed.values()))
        for name in names:
            if Path(name).name != name or name in ("", ".", ".."):
                raise self.refusal(f"{index} names {name!r}, which is no file of the folder; fetch or save it again")
        return names

    def check(self, files: tuple[Path, ...]) -> None:
        """Refuse files of weights that are missing or begin like none. Nothing in a file is executed.

        Raises:
            UserError: With the file, the reason and what to do.
        """
        for path in files:
            try:
                with open(path, "rb") as file:
                    head = file.read(len(_POINTER))
            except FileNotFoundError:
                raise self.refusal(
                    f"{path.name} is not in {self.path}; put the missing part of the weights there"
                ) from None
            except OSError as error:
                raise self.refusal(f"{path.name} cannot be read ({error.strerror}); make it readable") from None
            if head == _POINTER:
                raise self.refusal(
                    f"{path.name} is a pointer of Git LFS and no weights; run git lfs pull in {self.path}"
                )
            if path.suffix == ".safetensors" and head[8:9] != b"{":
                raise self.refusal(f"{path.name} is no safetensors file, or is damaged; fetch or save it again")
