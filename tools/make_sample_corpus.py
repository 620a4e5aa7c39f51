"""Make the packaged text from its two source files: `python -m tools.make_sample_corpus ENGLISH JAPANESE`.

The files hold one JSON object a line with id, lang, title, timestamp, text. The result, compressed with Zstandard at
its highest level, is the same bytes for the same input and library version; it is replaced in the package.
"""

import argparse
import json
from pathlib import Path

import zstandard

from lexalcm.data.sources.sample import SAMPLE_FILE
from lexalcm.io.atomic import atomic_file

FIELDS = ("id", "lang", "title", "timestamp", "text")
TARGET = Path(__file__).parents[1] / "lexalcm" / "data" / "sources" / "resources" / SAMPLE_FILE


def main() -> None:
    """Compress the documents of the sources, in order, into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+", type=Path, metavar="FILE")
    sources = parser.parse_args().sources
    records = [json.loads(line) for source in sources for line in source.read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps({field: record[field] for field in FIELDS}, ensure_ascii=False) for record in records]
    text = "\n".join(lines).encode() + b"\n"
    with atomic_file(TARGET) as temporary:
        temporary.write_bytes(zstandard.ZstdCompressor(level=22).compress(text))
    report = {"file": SAMPLE_FILE, "documents": len(lines), "bytes": len(text), "compressed": TARGET.stat().st_size}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
