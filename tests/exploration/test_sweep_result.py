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
    assert page.count('<tr class="original"') == 1
    assert "<h2>Failed" not in page
    with pytest.raises(ghostify.ArgumentError, match="by='colour' is no setting"):
        found.plot(by="colour")
    with pytest.raises(ghostify.ArgumentError, match="cost must be one of"):
        found.plot("size")


def test_the_page_is_read_without_a_calculator():
    original = TrialResult({"model": "net"}, 25_600_000, 89_500_000, 1.0, 1.0, 0.02, 0.9, 1.0, 1.0, 1.0, 1.0)
    small = TrialResult(
        {"model": "net", "cheap": "absorbed", "target": {"flops": 0.5}},
        *(9_000_000, 41_617_500, 0.352, 0.465, 0.012, 0.89, 0.95, 0.6, 0.58, 0.63),
    )
    broken = TrialResult({"model": "net", "ratio": 99}, error="ArgumentError: no <such> ratio")
    page = SweepResult((original, small, broken), {}).to_html()
    for text in ("89.5M", "46.5%", "12 ms", "60.0% (58.0% to 63.0%)"):
        assert f"<td>{text}</td>" in page
    assert "<td>ArgumentError: no &lt;such&gt; ratio</td>" in page
    menu = [f"{score} against {cost}" for score in ("top-1", "agreement with the original") for cost in ("FLOPs", "latency")]
    assert all(text in page for text in menu)
    assert "cheap absorbed\\u003cbr\\u003etarget flops=0.5\\u003cbr" in page
    assert "<td>flops=0.5</td>" in page


def test_a_page_of_failures_alone():
    assert "why" in SweepResult((TrialResult({"model": "net", "ratio": 99}, error="E: broken"),), {}).to_html()


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
