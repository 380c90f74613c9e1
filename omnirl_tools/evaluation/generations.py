"""Completions on disk as they come, so that a killed evaluation goes on where it stopped, on any number of processes.

One process appends to `generations.jsonl` alone; several append to `generations.rank0.jsonl` and so on, which the
first process joins when all are done, or when the next start finds them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnirl_core.types import Settings
from omnirl_tools.evaluation.generate import Generation
from omnirl_tools.evaluation.lines import by_row, read_lines, write_lines

WHOLE, RANK, SETTINGS = "generations.jsonl", "generations.rank{}.jsonl", "settings.json"

UNKNOWN_TOKEN = -1


def row_keys(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return a key of each row: which row it is and everything the policy is shown of it.

    Rows that are asked twice are counted, so that each has its own completion.
    """
    return [_digest([repr(identity), row["prompt"]]) for identity, row in by_row(rows).items()]


def prompt_hash(rows: Iterable[Mapping[str, object]]) -> str:
    """Return a hash of all prompts in order; the same wherever the data lies and whichever model is asked."""
    return _digest([row["prompt"] for row in rows])


class GenerationLog:
    """The completions of one evaluation folder, by row key."""

    def __init__(self, folder: Path, rank: int = 0):
        self.folder = folder
        self.own = folder / RANK.format(rank)

    def join(self) -> None:
        """Gather what all processes have written into one file. Only one process may, while the others wait."""
        parts = sorted(self.folder.glob(RANK.format("*")))
        if parts:
            write_lines(self.folder / WHOLE, self._lines([self.folder / WHOLE, *parts]))
        for part in parts:
            part.unlink()

    def read(self) -> dict[str, Generation]:
        """Return what `join` has gathered."""
        return {line["key"]: generation_of(line) for line in read_lines(self.folder / WHOLE)}

    def append(self, keys: Iterable[str], generations: Iterable[Generation]) -> None:
        """Write a batch; what stands in the file is whole, but for the last line of a process that is killed."""
        with self.own.open("a", encoding="utf-8", errors="surrogatepass") as file:
            for key, generation in zip(keys, generations, strict=True):
                file.write(json.dumps(_line(key, generation), ensure_ascii=False) + "\n")

    def begin(self, settings: dict[str, object]) -> list[str]:
        """Take up the folder for these settings; return the names of those under which it was filled before.

        Completions made under other settings are put aside (`generations.old.jsonl`), never mixed in.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.join()
        file = self.folder / SETTINGS
        before = read_lines(file)
        settings = json.loads(json.dumps(settings))
        odd = [key for key in settings if before and before[0].get(key) != settings[key]]
        whole = self.folder / WHOLE
        if (odd or not before) and whole.exists():
            whole.replace(whole.with_suffix(".old.jsonl"))
        write_lines(file, [settings])
        return odd

    @staticmethod
    def _lines(paths: Iterable[Path]) -> Iterable[dict[str, Any]]:
        return {line["key"]: line for path in paths for line in read_lines(path)}.values()


def generation_of(line: Settings) -> Generation:
    """Return the completion that a line tells of: one of `GenerationLog`, or any with a `completion`.

    A line that tells only how many tokens it took gets as many unknown ones: rewards count them, none reads them.
    """
    return Generation(
        text=line["completion"],
        token_ids=tuple(line.get("token_ids") or [UNKNOWN_TOKEN] * int(line.get("n_tokens") or 0)),
        clipped=bool(line.get("clipped", False)),
        image_sizes=_sizes(line.get("image_sizes")) or (),
        resized_sizes=_sizes(line.get("resized_sizes")),
    )


def _line(key: str, generation: Generation) -> dict[str, Any]:
    return {
        "key": key,
        "completion": generation.text,
        "token_ids": generation.token_ids,
        "clipped": generation.clipped,
        "image_sizes": generation.image_sizes,
        "resized_sizes": generation.resized_sizes,
    }


def _sizes(sizes: Any) -> tuple | None:
    return None if sizes is None else tuple((int(width), int(height)) for width, height in sizes)


def _digest(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
