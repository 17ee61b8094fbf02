# SPDX-License-Identifier: Apache-2.0
"""Training that is stopped right after a checkpoint, as by a power cut."""

import contextlib

import pytest

from training.fit.learner import Learner


class Stop(Exception):
    pass


@contextlib.contextmanager
def stopped_after(step):
    """Whatever trains inside must reach ``step``, write its checkpoint, and goes no further."""
    save = Learner.save

    def save_and_stop(learner, at):
        save(learner, at)
        if at == step:
            raise Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Learner, "save", save_and_stop)
        yield
