"""Recording a benchmark part by part."""

import json

from benchmarks import _harness


def test_a_part_is_recorded_beside_earlier_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_harness, "RESULTS", tmp_path)

    def total(parts):
        return {"total": sum(part["figures"]["value"] for part in parts.values())}

    assert _harness.recorded_parts("toy") == {}
    for part, value in (("a", 1), ("b", 2), ("a", 5)):
        _harness.finish_part("toy", part, {"value": value}, summary=total, record=True)
        assert json.loads(capsys.readouterr().out) == {"total": value}
    content = json.loads((tmp_path / "toy.json").read_text())
    assert content["figures"] == {"total": 7}
    assert list(content["parts"]) == ["a", "b"]
    assert content["parts"]["b"].keys() >= {"date", "commit", "command", "hardware", "figures"}


def test_nothing_is_written_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(_harness, "RESULTS", tmp_path)
    _harness.finish_part("toy", "a", {}, summary=lambda parts: {}, record=False)
    assert not list(tmp_path.iterdir())
