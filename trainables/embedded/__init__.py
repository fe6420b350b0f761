"""What the embedded tasks hold: each half of each, as plain columns, chosen by hash.

No text of a choosing half is, or nearly is, in the confirming half, and BoolQ's training passages
are in neither. The functions are pure and cached, because every evaluation takes fresh tasks.
"""

from __future__ import annotations

from collections.abc import Callable

from trainables.embedded import labelled, pairs, search, sets
from trainables.embedded.content import Content
from trainables.suites import Split

CONTENT: dict[str, Callable[[Split], Content]] = {
    "Lee50STS": pairs.lee,
    "SimLex999STS": pairs.simlex,
    "WordSim353STS": pairs.wordsim,
    "BoolQRetrieval": search.boolq,
    "PubMedQARetrieval": search.pubmedqa,
    "DisflQARetrieval": search.disflqa,
    "TRECClassification": labelled.trec,
    "SMSSpamClassification": labelled.sms,
    "MovieSentimentClassification": labelled.movies,
    "NewsgroupSetsClustering": sets.newsgroups,
    "ReutersSetsClustering": sets.reuters,
    "MedMCQASetsClustering": sets.medmcqa,
}


def scored_texts(name: str, split: Split) -> set[str]:
    """Return the texts that are encoded to score a design on one half of an embedded task."""
    return CONTENT[name](split).texts()
