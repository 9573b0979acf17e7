"""What runs and comparisons write down, as types: the same for whoever writes, reads or prints it.

| file | type |
|---|---|
| `result.json` | `RunResult`; of a run that is not at its end `PausedRun`, of one that failed `FailedRun` |
| `certificate.json` | `Certificate` |
| `predictions.jsonl` | one `Prediction` per line |
| `leaderboard.json` | `Leaderboard` |
| `curve.json` | `Curves` |
| `across.json` | `Across` |
| `export.json` | `Exported` |

What is found out and not written down has types as well: `Plan` (of `plan`), `DataPreview` (of `check`),
`MergedModel` (of `merge`), `SavedDelta` or `CertifiedFolder` (of `inspect`).

Times are in seconds, memory and sizes in bytes, shares from 0 to 1. Metrics are as `deltatune.evaluation`
gives them: ROUGE, accuracy and the like from 0 to 1, BLEU and chrF from 0 to 100. A loss is in nats
per token, class, label or tag where it is a cross-entropy; of numbers and of vectors it is the task's own.
"""

from __future__ import annotations

from deltatune.results.across import (
    Across,
    Critical,
    MethodAcross,
    OnSet,
    PairAcross,
    Profile,
    SetUsed,
)
from deltatune.results.certificate import Certificate, CertificateLine
from deltatune.results.curve import Curve, CurvePoint, Curves, Gain, LawPoint, PowerLaw
from deltatune.results.exported import Comparison, Exported, ExportedSite, KeptMetric, LeftOut
from deltatune.results.harness import TaskScore
from deltatune.results.leaderboard import (
    ChosenAgain,
    Decision,
    Halving,
    Leaderboard,
    LeaderboardRow,
    MeanCost,
    NoiseFloor,
    Pair,
    StoppedTrial,
    Trial,
    Tuning,
)
from deltatune.results.lost import GeneralLoss, Latency, Lost, Ratio
from deltatune.results.parts import (
    BaseUsed,
    Budget,
    Cost,
    DataUsed,
    Failure,
    GitState,
    Metrics,
    Origin,
    Padding,
    PausedCost,
    PausedMetrics,
    PausedSelection,
    Rates,
    Selected,
    StepBytes,
    StepMemory,
)
from deltatune.results.plan import (
    Change,
    ComparisonDisk,
    Machine,
    MicroBatch,
    Plan,
    PlannedCurve,
    PlannedEntry,
    RunDisk,
    UnplannedEntry,
)
from deltatune.results.prediction import Prediction, Span, read_predictions, whole_predictions
from deltatune.results.preview import DataPreview, Reading, ShownRow, ShownToken, TokenCounts
from deltatune.results.record import SCHEMA, Record
from deltatune.results.run import AnyResult, FailedRun, PausedRun, RunResult, run_result
from deltatune.results.saved import (
    CertifiedFolder,
    DeltaBase,
    Fit,
    MergedModel,
    RefusedWants,
    SavedDelta,
    StoredTensor,
    Wants,
)
from deltatune.results.timeline import Phase, phases

__all__ = [
    "SCHEMA",
    "Across",
    "AnyResult",
    "BaseUsed",
    "Budget",
    "Certificate",
    "CertificateLine",
    "CertifiedFolder",
    "Change",
    "ChosenAgain",
    "Comparison",
    "ComparisonDisk",
    "Cost",
    "Critical",
    "Curve",
    "CurvePoint",
    "Curves",
    "DataPreview",
    "DataUsed",
    "Decision",
    "DeltaBase",
    "Exported",
    "ExportedSite",
    "FailedRun",
    "Failure",
    "Fit",
    "Gain",
    "GeneralLoss",
    "GitState",
    "Halving",
    "KeptMetric",
    "Latency",
    "LawPoint",
    "Leaderboard",
    "LeaderboardRow",
    "LeftOut",
    "Lost",
    "Machine",
    "MeanCost",
    "MergedModel",
    "MethodAcross",
    "Metrics",
    "MicroBatch",
    "NoiseFloor",
    "OnSet",
    "Origin",
    "Padding",
    "Pair",
    "PairAcross",
    "PausedCost",
    "PausedMetrics",
    "PausedRun",
    "PausedSelection",
    "Phase",
    "Plan",
    "PlannedCurve",
    "PlannedEntry",
    "PowerLaw",
    "Prediction",
    "Profile",
    "Rates",
    "Ratio",
    "Reading",
    "Record",
    "RefusedWants",
    "RunDisk",
    "RunResult",
    "SavedDelta",
    "Selected",
    "SetUsed",
    "ShownRow",
    "ShownToken",
    "Span",
    "StepBytes",
    "StepMemory",
    "StoppedTrial",
    "StoredTensor",
    "TaskScore",
    "TokenCounts",
    "Trial",
    "Tuning",
    "UnplannedEntry",
    "Wants",
    "phases",
    "read_predictions",
    "run_result",
    "whole_predictions",
]
