"""Students before and after their file."""

import torch


def same_student(model, other, *shape):
    x = torch.randn(2, *(shape or (3, 8, 8)))
    with torch.no_grad():
        return torch.equal(model.eval()(x), other(x)) and all(
            torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items()
        )
