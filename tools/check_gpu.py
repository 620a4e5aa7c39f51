"""Is everything as it should be on this GPU? Trains, resumes, measures; under 8 minutes on an H100.

    python -m tools.check_gpu                    # all parts
    python -m tools.check_gpu typed memory       # some
    python -m tools.check_gpu --keep /tmp/gpu    # with every part's output in that folder

What each part checked is one JSON line: the part, what, the right value, the seen one, whether that is ok. A table
stands at the end; the exit code is 1 if anything failed. Parts run one after the other as `tools.part_runner` says.
Without a GPU, what can be walked with a pretended one is walked, and the exit code is that of this walk.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from tools.gpu_parts import PARTS
from tools.part_runner import run_parts

ROOT = Path(__file__).parents[1]
IMPORTED = ["lexalcm.train.run.main", "lexalcm.evaluate.run.evaluation", "tools.gpu_parts"]


def main() -> int:
    """Run the parts, print; the exit code."""
    parser = argparse.ArgumentParser(description="Check training, generation and embedding on this machine's GPU.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies the parts' time limits")
    parser.add_argument("--keep", type=Path, help="keep the parts' output, data and runs in this folder")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]}: there are {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        print("no GPU here: walking its path with a pretended one", flush=True)
        return pretend()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    chosen = {
        name: replace(part, limit=part.limit * arguments.patience)
        for name, part in PARTS.items()
        if not arguments.parts or name in arguments.parts
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return run_parts(
            chosen, folder, preload=["lexalcm.train.run.main", "lexalcm.evaluate.run.evaluation", "tools.gpu_parts"]
        )


def pretend() -> int:
    """Walk what can be walked without a GPU; the exit code."""
    walks = sorted(str(path) for path in (ROOT / "tests").glob("*/test_pretended_*.py"))
    if not walks:
        print("the tests are not here: nothing to walk with")
        return 0
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *walks], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
