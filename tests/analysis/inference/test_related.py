from __future__ import annotations

import numpy as np

from analysis.inference.related import cluster_means, clusters


def test_related_tasks_count_once() -> None:
    tasks = ["STS12", "STS13", "STSBenchmark", "CQADupstackGamingRetrieval", "STS16"]
    labels = clusters(tasks)
    means, names = cluster_means(np.array([[1.0, 2.0, 5.0, 7.0, 6.0]]), labels)
    assert names == ("STS12-16", "STSBenchmark", "CQADupstack")
    assert means.tolist() == [[3.0, 5.0, 7.0]]


def test_a_missing_task_makes_its_cluster_missing() -> None:
    means, _ = cluster_means(np.array([1.0, np.nan, 5.0]), clusters(["STS12", "STS13", "STS17"]))
    np.testing.assert_array_equal(means, [np.nan, 5.0])
