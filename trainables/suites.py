"""Suites: named lists of tasks, each split once into what a search sees and what confirms.

Where tasks are few, each is halved by its items. Where they are many, whole tasks are shared out,
by name and for good: the same in every suite, and together where two share texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Split = Literal["choosing", "confirming"]

SPLITS: tuple[Split, Split] = ("choosing", "confirming")

EMBEDDED_CATEGORIES = {
    "Lee50STS": "STS",
    "BoolQRetrieval": "Retrieval",
    "TRECClassification": "Classification",
    "NewsgroupSetsClustering": "Clustering",
    "SimLex999STS": "STS",
    "WordSim353STS": "STS",
    "PubMedQARetrieval": "Retrieval",
    "DisflQARetrieval": "Retrieval",
    "SMSSpamClassification": "Classification",
    "MovieSentimentClassification": "Classification",
    "ReutersSetsClustering": "Clustering",
    "MedMCQASetsClustering": "Clustering",
}
EMBEDDED_TASKS = tuple(EMBEDDED_CATEGORIES)

# Tasks that choose in the suites of many tasks; all others confirm. STSBenchmark is made of STS12
# to STS17, and the Wikipedia corpora overlap, as do those of Stack Exchange and P2P with S2S.
CHOOSING = (
    *("BIOSSES", "SICK-R", "STS22"),
    *("ArguAna", "FiQA2018", "NFCorpus", "SCIDOCS", "SciFact"),
    *("AmazonCounterfactualClassification", "Banking77Classification"),
    *("EmotionClassification", "TweetSentimentExtractionClassification"),
    *("MedrxivClusteringP2P", "MedrxivClusteringS2S", "TwentyNewsgroupsClustering"),
    "SprintDuplicateQuestions",
)

_PAPER = (  # Tang and Yang (arXiv 2409.02727), under the names in their code
    *("BIOSSES", "SICK-R", "STS12", "STS13", "STS14", "STS15", "STS16", "STSBenchmark"),
    *("ArguAna", "ClimateFEVER", "DBPedia", "FEVER", "FiQA2018", "HotpotQA", "MSMARCO"),
    *("NFCorpus", "NQ", "QuoraRetrieval", "SCIDOCS", "SciFact", "Touche2020", "TRECCOVID"),
    *("AmazonPolarityClassification", "Banking77Classification", "EmotionClassification"),
    *("ImdbClassification", "ToxicConversationsClassification"),
    "TweetSentimentExtractionClassification",
    *("ArxivClusteringP2P", "ArxivClusteringS2S"),
    *("BiorxivClusteringP2P.v2", "BiorxivClusteringS2S.v2"),
    *("MedrxivClusteringP2P.v2", "MedrxivClusteringS2S.v2"),
    *("RedditClustering.v2", "RedditClusteringP2P.v2"),
    *("StackExchangeClustering.v2", "StackExchangeClusteringP2P.v2"),
    "TwentyNewsgroupsClustering.v2",
)
_ENGLISH = (  # the benchmark MTEB(eng, v2)
    *("BIOSSES", "SICK-R", "STS12", "STS13", "STS14", "STS15", "STS17", "STS22.v2"),
    "STSBenchmark",
    *("ArguAna", "CQADupstackGamingRetrieval", "CQADupstackUnixRetrieval"),
    *("ClimateFEVERHardNegatives", "FEVERHardNegatives", "FiQA2018", "HotpotQAHardNegatives"),
    *("SCIDOCS", "TRECCOVID", "Touche2020Retrieval.v3"),
    *("AmazonCounterfactualClassification", "Banking77Classification", "ImdbClassification"),
    *("MTOPDomainClassification", "MassiveIntentClassification", "MassiveScenarioClassification"),
    *("ToxicConversationsClassification", "TweetSentimentExtractionClassification"),
    *("ArXivHierarchicalClusteringP2P", "ArXivHierarchicalClusteringS2S"),
    *("BiorxivClusteringP2P.v2", "MedrxivClusteringP2P.v2", "MedrxivClusteringS2S.v2"),
    *("StackExchangeClustering.v2", "StackExchangeClusteringP2P.v2"),
    "TwentyNewsgroupsClustering.v2",
    *("SprintDuplicateQuestions", "TwitterSemEval2015", "TwitterURLCorpus"),
    *("AskUbuntuDupQuestions", "MindSmallReranking", "SummEvalSummarization.v2"),
)
_PROXY = (  # small ones of it, of the four categories that the question is about
    *("BIOSSES", "SICK-R", "ArguAna", "SCIDOCS"),
    *("Banking77Classification", "TweetSentimentExtractionClassification"),
    *("MedrxivClusteringS2S.v2", "TwentyNewsgroupsClustering.v2"),
    *("STS15", "STSBenchmark", "CQADupstackGamingRetrieval", "CQADupstackUnixRetrieval"),
    *("MTOPDomainClassification", "MassiveIntentClassification"),
    *("ArXivHierarchicalClusteringS2S", "StackExchangeClustering.v2"),
)


@dataclass(frozen=True, slots=True)
class Suite:
    """Tasks under one name, and whether their items or they themselves are shared out."""

    about: str
    tasks: tuple[str, ...]
    split_by: Literal["items", "tasks"]


SUITES: dict[str, Suite] = {
    "embedded-quick": Suite("one small task of each category", EMBEDDED_TASKS[:4], "items"),
    "embedded": Suite("three small tasks of each category", EMBEDDED_TASKS, "items"),
    "paper": Suite("the 39 tasks of arXiv 2409.02727", _PAPER, "tasks"),
    "mteb-eng-v2": Suite("the 41 tasks of MTEB(eng, v2)", _ENGLISH, "tasks"),
    "proxy": Suite("16 small tasks of MTEB(eng, v2)", _PROXY, "tasks"),
}
HELP = "; ".join(f"{name}, {suite.about}" for name, suite in SUITES.items())


class Part(NamedTuple):
    """What one split scores of a task: the whole of it, or one half of its items."""

    task: str
    whole: bool


def parts(names: Sequence[str], split: Split) -> tuple[Part, ...]:
    """Return what a split scores of suites and single tasks, each task once.

    >>> parts(["Lee50STS", "STSBenchmark"], "choosing")[1]
    Part(task='STSBenchmark', whole=False)
    >>> Part("STSBenchmark", whole=True) in parts(["paper"], "choosing")
    False
    """
    found = [part for name in names for part in _parts(name)]
    kept = [part for part in found if not part.whole or role(part.task) == split]
    return tuple(dict.fromkeys(kept))


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all tasks that one split or the other scores."""
    found = (part.task for split in SPLITS for part in parts(names, split))
    return tuple(dict.fromkeys(found))


def canonical(names: Sequence[str]) -> list[str]:
    """Return one spelling for all lists that score the same.

    >>> canonical(["embedded", "embedded-quick"]) == canonical(EMBEDDED_TASKS)
    True
    """
    found = {part for split in SPLITS for part in parts(names, split)}
    return sorted(f"{part.task} whole" if part.whole else part.task for part in found)


def role(task: str) -> Split:
    """Return the split that scores a whole task; a later version of it has the same.

    >>> role("TwentyNewsgroupsClustering.v2"), role("STS22"), role("STSBenchmark")
    ('choosing', 'choosing', 'confirming')
    """
    return "choosing" if task.partition(".v")[0] in CHOOSING else "confirming"


def fault(names: Sequence[str]) -> str | None:
    """Return why suites and tasks cannot be scored together: a task both whole and halved."""
    found = {part for name in names for part in _parts(name)}
    both = sorted(task for task, whole in found if whole and Part(task, False) in found)
    if not both:
        return None
    words = ", ".join(both)
    return f"expected each task once, got {words} by name and in a suite; leave the name out"


def _parts(name: str) -> list[Part]:
    suite = SUITES.get(name)
    if suite is None:
        return [Part(name, whole=False)]
    return [Part(task, suite.split_by == "tasks") for task in suite.tasks]
