"""The example notebook: its cells run, and what they show was drawn."""

import json
from pathlib import Path

import pytest
import rerun as rr

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def test_the_notebook_runs_and_shows_the_run(monkeypatch, tmp_path, capsys):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)  # they would change with every run
    shown = []
    monkeypatch.setattr(rr.RecordingStream, "notebook_show", lambda stream, **_: shown.append(stream))
    names: dict = {}
    for cell in code:
        exec("".join(cell["source"]), names)
        names["SECONDS"] = 0.05
    assert capsys.readouterr().out.startswith("done")
    (stream,) = shown
    stream.save(tmp_path / "shown.rrd")
    stream.flush(timeout_sec=10.0)
    stream.disconnect()
    batches = {}
    for chunk in rr.chunk.RrdReader(tmp_path / "shown.rrd").stream():
        batches.setdefault(str(chunk.entity_path), []).append(chunk.to_record_batch())
    (rewards,) = (batch for batch in batches["/plots/reward"] if "Scalars:scalars" in batch.schema.names)
    assert [row[0] for row in rewards.column("Scalars:scalars").to_pylist()] == pytest.approx(names["episode"].reward)
    assert "/world/plan/candidates" in batches
