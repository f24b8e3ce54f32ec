"""The command that shows all of it on handwritten digits."""

import sys

from ..errors import GhostifyError
from .options import Json


def demo(as_json: Json = False) -> None:
    """Train a small CNN on handwritten digits, compress it, and compare both in accuracy, size and time. Needs no network.

    Exit code 0 only if the student is smaller, about as accurate, and faster.
    """
    from rich.console import Console
    from rich.progress import Progress

    from ..demo import EPOCHS, MAX_DROP, promise_not_kept, run_demo, trained_cnn

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training a small CNN on scikit-learn's digits", total=EPOCHS)
        model = trained_cnn(lambda: bar.advance(task))
    report = run_demo(model, progress=sys.stderr.isatty())
    if as_json:
        print(report.to_json())
    else:
        Console(width=None if sys.stdout.isatty() else 80).print(
            f"\nscikit-learn's handwritten digits, judged by {report.judging} that were held out\n",
            report.before_and_after(),
            f"\n{report.runtime}; both took turns. Compressed in {report.seconds:.0f} s. At most\n{MAX_DROP:.0%} may be lost, "
            "by the upper end of the drop's confidence interval.",
        )
    reason = promise_not_kept(report)
    if reason is not None:
        raise GhostifyError(reason)
