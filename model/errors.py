"""The errors of this package; each message is a sentence for the user."""


class BackboneError(ValueError):
    """The backbone is unknown, or its weights are missing or do not fit."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used."""
