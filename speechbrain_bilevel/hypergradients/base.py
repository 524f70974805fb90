"""The interface of a hypergradient strategy."""

import contextlib


class Hypergradient:
    """Computes the gradients of both levels of

        min_x f(x, y*(x))   subject to   y*(x) = argmin_y g(x, y),

    x the upper parameters, y the lower ones, f and g their losses, each on its
    own batches.

    A strategy is chosen in YAML and owns no part of the training loop: the
    ``BilevelMixin`` calls it, then clips and steps. It uses the Brain through
    ``brain.backward(level, batch)``, ``brain.levels`` and ``brain.modules``.
    """

    def setup(self, brain):
        """Called once, when the levels are known and before a checkpoint is
        recovered. A strategy with a state of its own adds itself to
        ``brain.checkpointer`` here."""

    def lower_gradient(self, brain, batch):
        """Adds the gradient of g by y to the ``.grad`` of the lower
        parameters.

        Arguments
        ---------
        brain : BilevelMixin
        batch : LevelBatch

        Returns
        -------
        predictions : object
            What ``compute_forward`` returned.
        loss : torch.Tensor
            The lower loss, a scalar.
        """
        return brain.backward("lower", batch.lower)

    def upper_view(self):
        """Within it, upper gradients are taken and the upper step is made. A
        strategy whose upper level works on a copy puts that in place here."""
        return contextlib.nullcontext()

    def upper_gradient(self, brain, batch):
        """Adds the hypergradient of f by x to the ``.grad`` of the upper
        parameters. The lower parameters have made their step.

        Arguments
        ---------
        brain : BilevelMixin
        batch : LevelBatch

        Returns
        -------
        predictions : object
        loss : torch.Tensor
            The upper loss, a scalar.
        """
        raise NotImplementedError

    def end_epoch(self, brain, epoch):
        """Called at the end of each epoch's training, before validation."""
