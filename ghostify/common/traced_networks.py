"""Traced networks, some of which have one graph for training and one for evaluation, as torchvision's feature extractors do."""

from torch import fx, nn


def graph_in(model: fx.GraphModule, training: bool) -> fx.Graph:
    """The graph that a traced network runs in training or in evaluation mode."""
    graph: fx.Graph = getattr(model, "train_graph" if training else "eval_graph", model.graph)
    return graph


def graphs_of(model: fx.GraphModule) -> list[fx.Graph]:
    """The graphs of a traced network: one, or that of evaluation mode and that of training mode."""
    graphs = (graph_in(model, training=False), graph_in(model, training=True))
    return list(dict.fromkeys(graphs))


def with_two_graphs(model: nn.Module) -> list[fx.GraphModule]:
    """The traced networks among the modules of a network, itself included, that run another graph in training."""
    return [module for module in model.modules() if isinstance(module, fx.GraphModule) and len(graphs_of(module)) > 1]


def set_mode(module: nn.Module, training: bool) -> None:
    """Set the mode of one module, and its graph where each mode has one; what lies in the module keeps its own."""
    module.training = training
    if isinstance(module, fx.GraphModule) and len(graphs_of(module)) > 1:
        module.graph = graph_in(module, training)
