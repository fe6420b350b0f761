"""One trial from its configuration to its scores: `run` is the seam of the whole system.

`run` is a generator. It yields a `Report` at each reporting step and one `Outcome` at the end; who
drives it (a terminal, Ray, a simulator) stops it early by closing it. Everything that belongs to a
trial lives inside the generator, so a closed one leaves nothing behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from trainables import engine, kernels
from trainables.config import TrialConfig
from trainables.engine import TrainingError as TrainingError
from trainables.events import Outcome as Outcome
from trainables.events import Report as Report
from trainables.events import Scored as Scored
from trainables.events import Session as Session
from trainables.memory import bound_caches
from trainables.trainer import Trainer


def run(config: TrialConfig, session: Session) -> Iterator[Report | Scored | Outcome]:
    """Train and score one design; every worker of the trial runs this with its own rank.

    A checkpoint in the session's folder is continued, and its reports are yielded again; so are
    the scores that are told task by task where `evaluation.task_by_task` asks for them. The
    folder ends up with the configuration, the trained weights, the items and the outcome.

    Raises:
        ConfigError: If the model or the data cannot take the design.
        ProbeError: If the built model does not do what the design says.
        TrainingError: If the loss is not finite, or one text alone needs more memory than there
            is. Several workers raise at any lack of memory, as others wait for the one that has
            it; started again, they go on with half the tokens in a forward pass.
    """
    engine.quiet_deepspeed()
    bound_caches()
    kernels.check_kernels(config.engine)
    num_told, outcome = 0, None
    while outcome is None:
        trainer = Trainer(config, session)
        try:
            for report in itertools.islice(trainer.train(), num_told, None):
                num_told += 1
                yield report
            for event in trainer.score():
                if isinstance(event, Outcome):
                    outcome = event
                else:
                    yield event
        except engine.MiniBatchHalvedError:
            if config.engine.num_workers > 1:  # the others wait for this one in a collective
                raise
        finally:
            trainer.close()
    yield outcome
