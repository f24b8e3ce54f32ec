"""What a sweep gives: tables, fronts, pages, the best within limits."""

import numpy as np
import pytest
from helpers.sweeps import sweep_of

import ghostify
from ghostify.exploration.sweep_result import SweepResult
from ghostify.exploration.trial import TrialResult


def some_results(count=200):
    generator = np.random.default_rng(0)
    results = [TrialResult({"model": "net"}, 10, 100, 1.0, 1.0, 0.01, 0.9, 1.0)]
    for number in range(count):
        share = generator.uniform(0.2, 0.9)
        flops, top1 = int(100 * share), float(generator.uniform(0.2, 0.89))
        results.append(
            TrialResult({"model": "net", "ratio": 2 + number}, int(10 * share), flops, share, share, 0.01 * share, top1, top1)
        )
    return SweepResult(tuple(results), {})


def test_the_front_is_what_nothing_beats():
    found = some_results()
    front = found.pareto("flops")
    for result in found.results:
        beaten = any(
            other.flops <= result.flops
            and other.top1 >= result.top1
            and (other.flops, other.top1) != (result.flops, result.top1)
            for other in found.results
        )
        assert ((front["flops"] == result.flops) & (front["top1"] == result.top1)).any() == (not beaten)


def test_the_best_within_limits():
    found = some_results()
    fitting = [r for r in found.results if r.flops_share <= 0.5 and r.latency <= 0.004]
    assert found.best(flops_share=0.5, latency=0.004).top1 == max(r.top1 for r in fitting)
    with pytest.raises(ghostify.ArgumentError, match=r"no trial keeps to flops <= 1"):
        found.best(flops=1)
    assert found.best(latency="4ms") == found.best(latency=0.004)
    with pytest.raises(ghostify.ArgumentError, match="limit must be one of"):
        found.best(size=1)
    with pytest.raises(ghostify.ArgumentTypeError, match="limit flops_share must be a number, not None"):
        found.best(flops_share=None)
    with pytest.raises(ghostify.ArgumentError, match="no trial has succeeded"):
        SweepResult((TrialResult({"model": "net"}, error="broken"),), {}).best()


def test_plots_tables_and_the_page(done, tmp_path):
    _, found = done
    for cost in ("flops", "params", "latency"):
        ax = found.plot(cost, by="method")
        assert {"Pareto front", "original"} <= set(ax.get_legend_handles_labels()[1])
    found.to_csv(tmp_path / "t.csv")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 7
    found.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page
    assert page.count("<tr") == 7
    with pytest.raises(ghostify.ArgumentError, match="by='colour' is no setting"):
        found.plot(by="colour")
    with pytest.raises(ghostify.ArgumentError, match="cost must be one of"):
        found.plot("size")


def test_unreadable_files_are_named_and_left(done, parts, tmp_path):
    found = sweep_of(parts, tmp_path, {"ratio": [2], "method": ["none"]})
    bad = tmp_path / "trials" / "other" / "trial.json"
    bad.parent.mkdir()
    for content in ("", "{}", '{"settings": 3}', "[]", '{"settings": {}, "format": 9}'):
        bad.write_text(content)
        again = sweep_of(parts, tmp_path, {"ratio": [2], "method": ["none"]})
        assert again.results == found.results
        assert list(again.unreadable) == ["trials/other/trial.json"]
        assert "can't be read: trials/other/trial.json" in str(again)
        assert bad.read_text() == content
