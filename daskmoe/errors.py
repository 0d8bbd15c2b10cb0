"""Every error and warning daskmoe raises, one tree rooted at `DaskMoEError`."""

from __future__ import annotations


class DaskMoEError(Exception):
    """Root of all errors raised by daskmoe."""


class InvalidOptionError(DaskMoEError, ValueError):
    """An option has a value it cannot have; the message lists what is valid."""


class InvalidDataError(DaskMoEError, ValueError):
    """The data do not fit the request: a variable is missing, has a wrong type, dimension or value."""


class TooFewRowsError(InvalidDataError):
    """Rows are fewer than the parameters of so many experts; ``most_experts`` is how many they allow."""

    def __init__(self, message: str, most_experts: int = 1) -> None:
        super().__init__(message)
        self.most_experts = most_experts


class NotFittedError(DaskMoEError, ValueError, AttributeError):
    """An estimator was asked before it was fitted."""


class StoreError(DaskMoEError, OSError):
    """A store cannot be opened or is not what it should be."""


class OutputExistsError(DaskMoEError, FileExistsError):
    """The output exists already and is never overwritten unasked."""


class SchemaError(DaskMoEError, ValueError):
    """A saved model has another schema version or misses variables."""


class PartitionError(DaskMoEError, RuntimeError):
    """A partition could not be fitted; the message names the partition, its rows and a remedy."""

    def __init__(self, message: str) -> None:
        # One string argument, so that the error survives the pickle from a worker.
        super().__init__(message)


class ClusterError(DaskMoEError, RuntimeError):
    """The cluster cannot go on: its scheduler is lost, workers die of a task, or none takes tasks."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class NotAtOptimumError(DaskMoEError, ValueError):
    """Inference was asked of a model that is not at a maximum of the likelihood."""


class DataWarning(UserWarning):
    """Data that are not all there, or that changed while they were read."""


class FitWarning(UserWarning):
    """A model that is not what was hoped for: a spike, worse than one line, or wild predictions."""


class IdentificationWarning(UserWarning):
    """A model holds zeros, or extrapolates, where no rows say anything."""


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it converged."""
