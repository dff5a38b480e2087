"""The benchmark of codecs runs, and what it says of size and quality can be true."""

import json
import subprocess
import sys
from pathlib import Path


def test_quick(tmp_path):
    command = [sys.executable, "-m", "benchmarks.codecs", "--quick", "--json", tmp_path / "c.json"]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True)
    items = json.loads((tmp_path / "c.json").read_text())
    found = {(item["case"].split(",")[0], item["stage"]): item["ours"] for item in items}
    assert len(found) == len(items) == 8
    assert found["h264", "size"] > 2 * found["jpeg", "size"]
    assert all(30 < found[codec, "quality"] < 60 for codec in ("jpeg", "h264"))
    assert all(item["peers"] == {} and item["limit"] is None for item in items)
