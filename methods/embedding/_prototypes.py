"""What the methods share that map attributes to prototypes among the features, and regress attributes from both."""

from __future__ import annotations

from torch import Tensor, nn

from benchmark.api import Method, Slot


class PrototypeMethod(Method):
    """Classes are prototypes in the space of the features; a decoder reads attributes from either.

    The regression of such a method runs from attributes to features, where no semantics are predicted. So the slot is a
    linear decoder g from features to attributes, which with a loss is trained along: regression(g(x), a_y) on the real
    features trains g, and regression(g(f(a_y)), a_y) on the prototypes asks of f that its prototypes can be told apart
    by the same semantics. Without the second term g would never reach the classifier. The loss sees the two in turn, so
    that a ReMSE with a memory (``window``) mixes both in it. The decoder is no part of ``none``, which predicts no
    semantics.

    Subclasses set ``net``, which is f, ``decoder``, which is g, and in ``fit`` the ``attributes``.
    """

    semantics_need_loss = True
    net: nn.Module
    decoder: nn.Linear
    #: (C, A) the attributes of all classes as they enter f.
    attributes: Tensor

    def decoded(self, features: Tensor) -> Tensor:
        """(B, A) the attributes that the decoder reads from (B, D) features or prototypes."""
        attributes: Tensor = self.decoder(features)
        return attributes

    def prototypes(self, attributes: Tensor) -> Tensor:
        """(C, D) the visual prototypes f(a) of (C, A) ``attributes`` as they enter f, with a mean square of 1."""
        features: Tensor = self.net(attributes)
        return features

    def semantics(self, x: Tensor) -> Tensor:
        return self.decoded(x)

    def regression(self, slot: Slot, x: Tensor, y: Tensor, prototypes: Tensor, of_image: Tensor) -> Tensor:
        """The slot on both sides, a scalar.

        Args:
            slot: the slot.
            x: (B, D) features.
            y: (B,) their labels.
            prototypes: (C, D) prototypes of classes.
            of_image: (B,) the row in ``prototypes`` of each label.
        """
        return slot(self.decoded(prototypes)[of_image], y) + slot(self.decoded(x), y)


def penalty(module: nn.Module) -> Tensor:
    """The sum of the squares of all parameters of ``module``, a scalar."""
    value = sum(parameter.square().sum() for parameter in module.parameters())
    assert isinstance(value, Tensor)
    return value
