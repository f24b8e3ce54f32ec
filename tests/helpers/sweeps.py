"""Sweeps of a small network."""

import ghostify

GRID = [{"ratio": [2, 4], "method": ["none", "least_squares"]}, {"target": [{"flops": 0.6}], "method": ["none"]}]


def sweep_of(parts, out, grid=GRID, **options):
    return ghostify.sweep(parts["model"], grid, images=parts["images"], val=parts["val"], out=out, **options)


def table(found):
    frame = found.to_frame()
    return frame[[name for name in frame if name != "seconds" and not name.startswith("latency")]]
