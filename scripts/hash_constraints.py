"""The versions of constraints.txt with the hashes of their files, for pip's hash mode; no download addresses.

    .venv/bin/python scripts/hash_constraints.py > hashed.txt
    pip install --require-hashes -r hashed.txt && pip install --no-deps -e .

Hashes are those that your package index gives for this Python and this kind of machine: make the file where you trust
the index, install with it where the hashes have to hold. pip then refuses any file that is another.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", default="dev", help="of pyproject.toml (default %(default)s)")
    arguments = parser.parse_args(argv)
    items = resolve(arguments.extras)
    print("\n".join(hashed_lines(items)))
    return 0


def resolve(extras: str) -> list[dict[str, Any]]:
    """What pip would install, nothing of it installed: the `install` list of its report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run",
                "--ignore-installed", "--report", str(report), "-c", str(ROOT / "constraints.txt"),
                f"{ROOT}[{extras}]",
            ],
            check=True,
        )  # fmt: skip
        return json.loads(report.read_text())["install"]


def hashed_lines(items: Iterable[dict[str, Any]]) -> list[str]:
    """`name==version --hash=sha256:...`, sorted; ValueError where the index gave no hash.

    >>> hashed_lines([{"metadata": {"name": "A", "version": "1"},
    ...                "download_info": {"archive_info": {"hashes": {"sha256": "0f"}}}}])
    ['A==1 --hash=sha256:0f']
    """
    lines = []
    for item in items:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        archive = item["download_info"].get("archive_info")
        if archive is None:
            continue  # this project itself, from its folder
        digest = archive.get("hashes", {}).get("sha256")
        if digest is None:
            raise ValueError(f"{name}=={version}: the index gives no sha256; download the file and hash it")
        lines.append(f"{name}=={version} --hash=sha256:{digest}")
    return sorted(lines, key=str.lower)


if __name__ == "__main__":
    sys.exit(main())
