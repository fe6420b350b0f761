"""Related tasks as one: benchmarks made of the same source are not independent evidence.

The five STS shared tasks and the twelve forums of CQADupstack are samples of one source each, and
a paired test over tasks that counts each of them overstates how many there are.
"""

import re
from collections.abc import Sequence

import numpy as np

from analysis.arrays import FloatArray, IntArray

RELATED = {"STS12-16": r"STS1[2-6]", "CQADupstack": r"CQADupstack.*"}


def clusters(tasks: Sequence[str]) -> tuple[str, ...]:
    """The name of each task's cluster: its own where it has no relatives.

    >>> clusters(["STS12", "STS15", "STS17", "CQADupstackUnixRetrieval"])
    ('STS12-16', 'STS12-16', 'STS17', 'CQADupstack')
    """
    return tuple(
        next((name for name, form in RELATED.items() if re.fullmatch(form, task)), task)
        for task in tasks
    )


def cluster_means(scores: FloatArray, labels: Sequence[str]) -> tuple[FloatArray, tuple[str, ...]]:
    """Means over each cluster of the last axis, scores (..., T) to (..., C), and their names.

    A missing task (NaN) makes its cluster's mean missing: a mean over fewer tasks would not be
    comparable between models.
    """
    names = tuple(dict.fromkeys(labels))
    codes: IntArray = np.array([names.index(label) for label in labels])
    columns = [scores[..., codes == code].mean(axis=-1) for code in range(len(names))]
    return np.stack(columns, axis=-1), names
