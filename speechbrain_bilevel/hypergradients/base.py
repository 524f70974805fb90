"""The interface of a hypergradient strategy."""

import contextlib

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)


class Hypergradient:
    """Computes the gradients of both levels of

        min_x f(x, y*(x))   subject to   y*(x) = argmin_y g(x, y),

    x the upper parameters, y the lower ones, f and g their losses, each on its
    own batches. The hypergradient is d f(x, y*(x)) / dx: a direct part, the
    derivative of f by x, and an implicit part, through y*.

    A strategy is chosen in YAML and owns no part of the training loop: the
    ``BilevelMixin`` calls it, then clips and steps. What it may use of the
    Brain: ``levels``, the parameters of each; ``parts``, the batches of the
    step, each with a BatchLoss ``lower`` and ``upper``; ``mean_loss(level)``,
    their mean; ``deposit(level, vector)``, which adds to ``.grad``.
    """

    #: How second derivatives are computed: "reverse", "forward", "difference",
    #: or None without any.
    products = None
    #: Whether the network is evaluated with substituted parameters.
    substitutes = True
    #: Whether ``hparams.upper`` divides the parameters; else all are lower.
    partitions = True

    def setup(self, brain):
        """Called once, when the levels are known and before a checkpoint is
        recovered. A strategy with a state of its own adds itself to
        ``brain.checkpointer`` here."""

    def problems(self, brain):
        """What this strategy cannot do with this Brain.

        Returns
        -------
        list of str
            A sentence for each, with what to choose instead.
        """
        del brain
        return []

    def lower_gradient(self, brain, part):
        """Adds the gradient of g by y, on one batch and divided by the number
        of batches of the step, to the ``.grad`` of the lower parameters.

        Arguments
        ---------
        brain : BilevelMixin
        part : Part

        Returns
        -------
        predictions : object
            What ``compute_forward`` returned.
        loss : torch.Tensor
            The lower loss, a scalar.
        """
        del brain
        return part.lower.backward()

    def before_lower_step(self, brain):
        """Called when all batches of a step have added their lower gradient,
        which is not yet averaged over processes."""

    def upper_view(self):
        """Within it, upper gradients are taken and the upper step is made. A
        strategy whose upper level works on a copy puts that in place here."""
        return contextlib.nullcontext()

    def upper_gradient(self, brain):
        """Adds the hypergradient to the ``.grad`` of the upper parameters. The
        lower parameters have made their step.

        Arguments
        ---------
        brain : BilevelMixin
        """
        raise NotImplementedError

    def end_epoch(self, brain, epoch):
        """Called at the end of each epoch's training, before validation."""


class OneLevel(Hypergradient):
    """A strategy without an upper level: all parameters are lower ones, and
    ``upper`` and ``upper_opt_class`` are not used."""

    partitions = False

    def problems(self, brain):
        """See ``Hypergradient.problems``."""
        if brain.upper_every > 1:
            name = type(self).__name__
            return [f"upper_every: {name} has no upper step; leave it out"]
        return []

    def upper_gradient(self, brain):
        """There is no upper gradient."""


@register_checkpoint_hooks
class StatefulHypergradient(Hypergradient):
    """A strategy whose ``state`` is saved with every checkpoint.

    ``state`` is a dict of tensors, each loaded in place.
    """

    def setup(self, brain):
        """See ``Hypergradient.setup``; ``state`` must exist by now."""
        if brain.checkpointer is not None:
            brain.checkpointer.add_recoverable("hypergradient", self)

    @mark_as_saver
    def save(self, path):
        """Saves the state."""
        torch.save(self.state, path)

    @mark_as_loader
    def load(self, path, end_of_epoch):
        """Loads the state."""
        del end_of_epoch
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, tensor in saved.items():
            self.state[name].copy_(tensor)
