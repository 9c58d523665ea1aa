"""Where a run starts: from which file, and at which place of the training."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmengine.runner import Runner


class Start(NamedTuple):
    """What a run starts from: what the config asks for, until CheckpointHook chooses.

    A runner that is built has no public way to tell or to change it: this class alone
    touches its private attributes.
    """

    resumes: bool  # else the file gives weights, and nothing more
    path: str | None  # a file or an address; None also for the last one
    has_loaded: bool  # whether the model has the weights of a checkpoint

    @classmethod
    def of(cls, runner: Runner) -> 'Start':
        """Tell what a run starts from, as far as that is decided."""
        return cls(runner._resume, runner._load_from, runner._has_loaded)

    def hand_to(self, runner: Runner) -> None:
        """Have a run start so, in ``before_run``."""
        # Read by Runner.load_or_resume, after before_run, and above.
        runner._resume, runner._load_from = self.resumes, self.path
        if self.resumes:
            # Called by Runner.train before that. The checkpoint fills the model: to
            # fill it from pre-trained weights first would take a while, and fail where
            # those are gone.
            runner._init_model_weights = lambda: None


class Place(NamedTuple):
    """How far a training has come: what the meta of its checkpoints says of it."""

    epoch: int
    iter: int  # micro-batches since the beginning of the first epoch
    validation_due: bool = False  # an epoch is over, and its validation is not
    steps_per_epoch: int | None = None  # micro-batches; stock hooks do not say

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> 'Place':
        """Read the meta of a checkpoint."""
        return cls(**{name: meta[name] for name in cls._fields if name in meta})
