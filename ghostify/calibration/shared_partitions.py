"""Partitions for all layers of a part whose outputs are added to each other."""

from torch import fx, nn

from ..deployment.channel_streams import channel_streams
from ..graph.running import GraphRun
from ..layers.ghost_module import GhostModule
from .alignment import Partition
from .part_pair import PartPair
from .site_batches import teacher_batches
from .site_data import SiteData
from .site_fit import SiteFit


def shared_partitions(pair: PartPair) -> dict[str, Partition]:
    """A partition for each layer that shares one, by the name its graph calls it; chosen by one run of the teacher."""
    partitions = _partitions_by_target(pair.teacher.graph, pair.teacher_modules)
    run = pair.new_teacher_run()
    try:
        for node in run.nodes:
            if node.op == "call_module" and str(node.target) in partitions:
                _describe(pair, run, node, partitions[str(node.target)])
    finally:
        run.close()
    for partition in {id(partition): partition for partition in partitions.values()}.values():
        partition.choose()
    return partitions


def _partitions_by_target(graph: fx.Graph, modules: dict[str, nn.Module]) -> dict[str, Partition]:
    """One empty partition for all layers of each stream of channels that more than one layer makes."""
    partitions: dict[str, Partition] = {}
    for stream in channel_streams(graph, modules, set(), set()).streams:
        if not stream.fixed and len(stream.makers) > 1:
            partition = Partition()
            partitions.update({str(node.target): partition for node in stream.makers})
    return partitions


def _describe(pair: PartPair, run: GraphRun, node: fx.Node, partition: Partition) -> None:
    """Add what the teacher gives at one layer to its partition, if a Ghost module takes the layer's place."""
    site, module = pair.state.sites.get(pair.name_of(node)), pair.student_modules.get(str(node.target))
    if site is not None and isinstance(module, GhostModule):
        settings = pair.state.settings
        data = SiteData(site, teacher_batches(run, node), pair.images, settings.seed)
        SiteFit(data, settings).describe(module, partition)
