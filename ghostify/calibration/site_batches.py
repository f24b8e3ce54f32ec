"""What reaches a site in the student, and what the teacher gives there, batch by batch."""

from collections.abc import Iterator

from torch import Tensor, fx, nn

from ..graph.running import GraphRun
from .part_pair import PairedSums, PartPair
from .site_data import Batch, Batches, UnevenError


def site_batches(
    pair: PartPair, node: fx.Node, twin: fx.Node, sums: PairedSums | None = None, asymmetric: bool = True
) -> Batches:
    """Batches for the fit of one layer.

    Args:
        pair: runs the two networks up to the layer.
        node, twin: the call of the layer in student and teacher.
        sums: where its output is added to a shortcut; None where that is not taken into account.
        asymmetric: whether the input is the student's; the teacher's otherwise.

    Returns:
        A function that gives the batches anew at each call.
    """
    kept = pair.state.kept.get(pair.name_of(node))
    channel_dim = -1 if isinstance(pair.module_of(node), nn.Linear) else 1
    inputs = (node if asymmetric else twin).all_input_nodes[0]
    student_nodes = [inputs] if asymmetric else []
    teacher_nodes = [twin] if asymmetric else [twin, inputs]
    if sums is not None:
        student_nodes.append(sums.student.shortcut)
        teacher_nodes.append(sums.teacher.node)

    def that_stay(maps: Tensor) -> Tensor:
        """Those of the teacher's maps that the student has: of the layer, and of a sum of maps of the same span."""
        return maps if kept is None else maps.index_select(channel_dim, kept.to(maps.device))

    def batches() -> Iterator[Batch]:
        in_student = pair.student.run(student_nodes, keep=student_nodes)
        in_teacher = pair.teacher.run(teacher_nodes, keep=teacher_nodes)
        uneven = False
        for student, teacher in zip(in_student, in_teacher, strict=True):  # to the end, so that both have run everything
            maps = student[0] if asymmetric else teacher[1]
            uneven = uneven or len(maps) != len(teacher[0]) or not maps.numel()
            if not uneven:
                output = that_stay(teacher[0])
                yield Batch(maps, output, that_stay(teacher[-1]), student[-1]) if sums is not None else Batch(maps, output)
        if uneven:
            raise UnevenError

    return batches


def teacher_batches(run: GraphRun, node: fx.Node) -> Batches:
    """Batches with nothing but the maps that a network gives at a node."""

    def batches() -> Iterator[Batch]:
        for (maps,) in run.run([node]):
            yield Batch(maps, maps)

    return batches
