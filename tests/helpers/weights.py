"""Weights of a network as they were."""

import torch


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def has_weights(model, weights):
    return all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
