"""Coverage-guided fuzzing of one target with atheris; the findings go to a folder, one file each.

    python tests/fuzz/coverage_guided.py boxes --seconds 60

Exit code 0 where nothing was found. `make fuzz` runs all targets.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["omnirl_core", "yaml", "json"]):
    sys.path.insert(0, str(Path(__file__).parent))
    import targets

CASES = Path(__file__).parent / "cases"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(targets.TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="a folder that keeps what reached new code; else a temporary one")
    parser.add_argument("--findings", type=Path, default=Path("fuzz_findings"))
    arguments = parser.parse_args()
    corpus = arguments.corpus or Path(tempfile.mkdtemp(prefix="omnirl_fuzz_"))
    for folder in (arguments.findings, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    logging.disable()
    # libFuzzer writes into the first folder only
    folders = [str(folder) for folder in (corpus, CASES / arguments.target) if folder.is_dir()]
    options = [
        f"-max_total_time={arguments.seconds}", "-timeout=30", "-max_len=4096", "-rss_limit_mb=4096",
        f"-artifact_prefix={arguments.findings}/{arguments.target}-", "-print_final_stats=1",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, *folders], targets.TARGETS[arguments.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
