"""Several references of a row: scored as sacreBLEU and rouge-score define it, also in resampled corpora."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

from deltatune.comparison.scores import read_sample
from deltatune.evaluation import METRICS, Job, evaluate, loss_on, text_metric, text_metrics
from deltatune.evaluation.kinds.texts import row_losses
from deltatune.evaluation.metrics import Scores, corpus_metric
from deltatune.evaluation.monotony import one_answer
from deltatune.recipe.sections import EvaluationSpec
from deltatune.results import Prediction
from tests.evaluate.test_metrics import TEXTS, made

REFERENCES = [
    ["List of Bulgarian footballers", "Bulgarian football players"],
    ["1998 in film"],
    ["The running of the bulls", "bulls", "A bull run of running bulls"],
    ["\xc9lan vital", "elan"],
]
WORDS = st.text(st.sampled_from("ab .\xfc"), max_size=24)
CORPUS = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=7)


def streams(references: list[list[str]]) -> list[list[str | None]]:
    """As sacreBLEU's documentation has a variable number of references."""
    most = max(map(len, references))
    return [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]


def test_rouge_is_the_best_by_f_as_rouge_score_has_it():
    found = text_metrics(made(TEXTS), REFERENCES, ["rouge"])
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for key in METRICS.get("rouge").keys:
        kind, part = key.split("_")
        part = {"f": "fmeasure", "p": "precision", "r": "recall"}[part]
        pairs = zip(REFERENCES, TEXTS, strict=True)
        each = [getattr(scorer.score_multi(texts, text)[kind], part) for texts, text in pairs]
        assert found.examples[key] == pytest.approx(each)
        assert found.values[key] == pytest.approx(np.mean(each))
    assert found.signatures["rouge"].startswith("refs:best|")


def test_exact_match_is_that_of_any():
    found = text_metrics(
        made(["1998  in film", "bulls", "x"]), [["a", "1998 in film"], ["bulls"], ["y", "z"]]
    )
    assert found.examples["exact_match"] == [1.0, 1.0, 0.0]
    assert found.values["exact_match"] == pytest.approx(2 / 3)
    assert found.values["mean_length"] == pytest.approx(5 / 3)
    assert found.values["repetition_rate"] == 0


def test_one_reference_in_a_list_is_one_reference():
    plain = [texts[0] for texts in REFERENCES]
    assert text_metrics(made(TEXTS), [[text] for text in plain]) == text_metrics(made(TEXTS), plain)


def test_a_metric_of_ones_own_takes_the_best_unless_it_says_how():
    def distance(generations, references):
        pairs = zip(generations, references, strict=True)
        return Scores.per_example({"distance": [float(abs(len(g.text) - len(text))) for g, text in pairs]})

    try:
        text_metric("distance", keys={"distance": False})(distance)
        found = text_metrics(made(["abc", "a"]), [["abcd", "abc", ""], ["abc"]], ["distance"])
        assert found.examples["distance"] == [0.0, 2.0]
        assert found.values["distance"] == 1.0
    finally:
        METRICS.remove("distance")


@settings(max_examples=50, deadline=None)
@given(CORPUS, st.sampled_from(["bleu", "chrf"]), st.randoms())
def test_corpora_and_resampled_ones_score_as_sacrebleu_does(corpus, name, random):
    predictions, references = map(list, zip(*corpus, strict=True))
    oracle = {"bleu": BLEU, "chrf": CHRF}[name]()
    whole = oracle.corpus_score(predictions, streams(references)).score
    assert text_metrics(made(predictions), references, [name]).values[name] == pytest.approx(whole, abs=1e-9)
    metric = corpus_metric(name)
    rows = metric.statistics(predictions, references, ())
    drawn = [random.randrange(len(corpus)) for _ in corpus]
    expected = oracle.corpus_score([predictions[i] for i in drawn], streams([references[i] for i in drawn]))
    assert metric.score(rows[drawn].sum(axis=0)) == pytest.approx(expected.score, abs=1e-9)
    assert metric.score(rows.sum(axis=0)) == pytest.approx(whole, abs=1e-9)


def with_references(case):
    """Every second row of a case has two references more, which are those of other rows."""
    targets = [row.target for row in case.rows]
    several = [(t, targets[n - 1], targets[n - 2]) if n % 2 else () for n, t in enumerate(targets)]
    rows = [replace(row, references=texts) for row, texts in zip(case.rows, several, strict=True)]
    encoded = case.encoder.encode(case.rows)
    for feature, row in zip(encoded.features, rows, strict=True):
        variants = case.encoder.encode([replace(row, target=text) for text in row.references]).features
        if variants:
            feature["others"] = variants[1:]
    return rows, encoded


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_reads_a_row_once_for_all_its_references(make_case, name):
    case, passes = make_case(name), []
    _, encoded = with_references(case)
    handle = case.model.base.get_encoder().register_forward_hook(lambda *_: passes.append(1))
    row_losses(Job(case.model, case.encoder.encode(case.rows), case.encoder, 2))
    once = len(passes)
    row_losses(Job(case.model, encoded, case.encoder, 2))
    handle.remove()
    assert len(passes) == 2 * once > 2


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("name", ["t5", "bart", "llama"])
def test_the_loss_is_the_mean_over_all_tokens_of_all_references(make_case, name, size):
    case = make_case(name)
    rows, encoded = with_references(case)
    apart = case.encoder.encode(
        [replace(row, target=text) for row in rows for text in row.references or (row.target,)]
    )
    alone = row_losses(Job(case.model, apart, case.encoder, size))
    found = row_losses(Job(case.model, encoded, case.encoder, size))
    of_rows = iter(alone)
    for row, loss in zip(rows, found, strict=True):
        each = [next(of_rows) for _ in row.references or (row.target,)]
        assert loss.tokens == sum(one.tokens for one in each)
        assert loss.nll == pytest.approx(sum(one.nll for one in each), rel=1e-4)
    whole = loss_on(case.model, encoded, case.encoder, batch_size=size)
    assert whole == pytest.approx(loss_on(case.model, apart, case.encoder, batch_size=size), rel=1e-5)
    # An evaluation that writes shares the encoder's work, and has the same losses.
    spec = EvaluationSpec(batch_size=size, max_new_tokens=4)
    evaluated = evaluate(case.model, rows, encoded, case.encoder, spec)
    assert evaluated.metrics["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    for row, line, loss in zip(rows, evaluated.predictions, found, strict=True):
        assert (line.reference, line.references) == (row.target, list(row.references) or None)
        assert (line.nll, line.tokens) == (pytest.approx(loss.nll, rel=1e-4), loss.tokens)


def test_files_keep_all_references_and_old_ones_are_read(tmp_path):
    texts, path = TEXTS, tmp_path / "predictions.jsonl"
    lines = [
        Prediction(str(n), "x", refs[0], text, references=refs if refs[1:] else None)
        for n, (refs, text) in enumerate(zip(REFERENCES, texts, strict=True))
    ]
    assert "references" not in lines[1].as_dict()
    assert lines[0].as_dict()["references"] == REFERENCES[0]
    for name, oracle in (("bleu", BLEU()), ("chrf", CHRF())):
        path.write_text("".join(json.dumps(line.as_dict()) + "\n" for line in lines), "utf-8")
        several = read_sample([path], name)
        assert several.by_seed()[0] == pytest.approx(oracle.corpus_score(texts, streams(REFERENCES)).score)
        path.write_text(
            "".join(json.dumps(replace(line, references=None).as_dict()) + "\n" for line in lines), "utf-8"
        )
        one = [[refs[0] for refs in REFERENCES]]
        assert read_sample([path], name).by_seed()[0] == pytest.approx(oracle.corpus_score(texts, one).score)


def test_an_answer_that_is_right_for_most_rows_is_no_monotony():
    lines = [Prediction(str(n), "x", f"a{n}", "yes", references=[f"a{n}", "yes"]) for n in range(30)]
    assert one_answer(lines) is None
    assert one_answer([replace(line, references=None) for line in lines]) is not None
