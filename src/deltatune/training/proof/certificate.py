"""Proof of effect: that a delta reached its targets, acted, learned, was kept, and left the base alone.

Each line says what was checked and what was found. A line that fails is written down with its remedy and ends
the run. The lines of a sound run are the same whenever it is repeated: they hold no times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune import quant
from deltatune.checkpoint.store import load_adapter
from deltatune.core.adapter import Adapter
from deltatune.core.model import AdaptedModel
from deltatune.core.sites import BaseView
from deltatune.data.supervised import Supervision
from deltatune.errors import AdapterError, TargetError, TrainingError
from deltatune.files import write_json
from deltatune.results import SCHEMA, Certificate, CertificateLine
from deltatune.timeline import phase
from deltatune.training.proof.equal_logits import Logits, logits, rounding
from deltatune.training.proof.parts import parts_of, without_effect

RELOADED = "reloaded"


class Proof:
    """Lines of proof. The first that fails ends the run.

    Args:
        path: Where certificate.json is written.
        about: What the lines are about (name, method, seed, delta); it goes into the file.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.about = dict(about)
        self._lines: dict[str, CertificateLine] = {}

    @property
    def lines(self) -> list[CertificateLine]:
        """The lines so far, in order."""
        return list(self._lines.values())

    @property
    def failed(self) -> bool:
        """Whether a line failed."""
        return not all(line.passed for line in self.lines)

    @property
    def certificate(self) -> Certificate:
        """The lines so far, as they are written."""
        return Certificate(schema_=SCHEMA, **self.about, passed=not self.failed, lines=self.lines)

    def take(self, lines: Iterable[CertificateLine]) -> None:
        """Take over lines of the part of a run before an interruption."""
        self._lines |= {line.check: line for line in lines}

    def check(
        self, name: str, passed: bool, detail: str, remedy: str, values: Mapping[str, Any] | None = None
    ) -> CertificateLine:
        """Record a check, and give its line.

        Raises:
            TrainingError: It failed. The file is written before.
        """
        line = CertificateLine(check=name, passed=passed, detail=detail, values=dict(values or {}))
        self._lines[name] = line if passed else line.model_copy(update={"remedy": remedy})
        if not passed:
            self.write()
            raise TrainingError(f"{name}: {detail}.", field="certificate", remedy=remedy)
        return line

    def write(self, *copies: Path) -> None:
        """Write the file, and the same beside what it is about."""
        for path in (self.path, *copies):
            write_json(path, self.certificate.as_dict())

    @phase("certificate")
    def targets(self, model: AdaptedModel, name: str) -> None:
        """Every selector reached a module that the delta acts on, and something is trained."""
        adapter, config, view = model.adapter(name), model.configs[name], model.view
        heads = adapter.heads()
        sites = [path for path in adapter.deltas if path not in heads]
        settings = [getattr(config, field, None) or () for field in config.selectors]
        selected = {s: _matched(view, s, sites) for selectors in settings for s in selectors}
        idle = [selector for selector, count in selected.items() if not count]
        total = quant.parameter_count(model.base)
        modules = [*sites, *adapter.keys_values]
        share = _parameters_within(model, modules) / total
        trained = sum(parameter.numel() for _, parameter in adapter.trainable())
        parts = []
        if modules:
            counts = ", ".join(f"{selector} {count}" for selector, count in selected.items())
            parts.append(
                f"{_many(len(modules), 'module')} ({counts or 'chosen by the method'}) with {share:.2%} of "
                "the model's parameters"
            )
        parts += ["vectors before the input"] if adapter.prompt is not None else []
        parts += [f"{_many(len(adapter.own), 'parameter')} in copies"] if adapter.own else []
        parts += [f"new heads {', '.join(heads)}"] if heads else []
        detail = f"{'; '.join(parts) or 'nothing'}; {trained:,} of {total:,} parameters are trained"
        if idle:
            detail = f"{', '.join(map(repr, idle))} reached no module that is trained; {detail}"
        self.check(
            "targets reached",
            bool(parts) and trained > 0 and not idle,
            detail,
            "Choose other targets; `deltatune train --dry-run` shows what each would train.",
            {"modules": len(modules), "selectors": selected, "share": share, "trained": trained},
        )

    def supervised(self, supervision: Supervision) -> None:
        """Each training row has labels, and each label ends with the end token unless its text was cut."""
        labels = f"{supervision.tokens:,} supervised tokens in {_many(supervision.rows, 'row')}"
        share = None if supervision.ended is None else supervision.ended / max(supervision.rows, 1)
        if share is not None:
            labels += f", {share:.1%} of which end with the end token"
            labels += f" ({supervision.cut:,} were cut)" if supervision.cut else ""
        else:
            labelled = supervision.rows - supervision.silent
            labels = f"{labelled:,} of {_many(supervision.rows, 'row')} have a label"
            if supervision.tokens > labelled:  # of each word
                labels = f"{supervision.tokens:,} labels in {labelled:,} of {_many(supervision.rows, 'row')}"
        self.check(
            "supervised labels",
            supervision.sound,
            f"{labels}; {supervision.silent:,} have none" if supervision.silent else labels,
            "Labels that mask or lose their end teach a model never to stop; `deltatune check` shows what is "
            "learned of a row.",
            {
                "rows": supervision.rows,
                "tokens": supervision.tokens,
                "ended": supervision.ended,
                "cut": supervision.cut,
            },
        )

    @phase("certificate")
    def taps_fired(self, model: AdaptedModel, before: Mapping[str, int]) -> None:
        """Every site of the active adapters was reached by the first step: has fired since `before`."""
        counts = {path: calls - before.get(path, 0) for path, calls in model.fired().items()}
        silent = [path for path, calls in counts.items() if calls == 0]
        self.check(
            "every tap fired",
            not silent,
            _many(len(counts), "site")
            if not silent
            else f"{len(silent)} of {len(counts)} did not, first {silent[0]}",
            "The model computes these modules in another way; choose other targets.",
            {"sites": len(counts), "silent": silent},
        )

    @phase("certificate")
    def learned(self, adapter: Adapter, before: Mapping[str, Tensor], loss: Callable[[], float]) -> None:
        """Every part of the delta got a gradient in the first step and was changed by it.

        Some parameters start with a zero gradient by design (LoRA's A, while B is zero), so each part is
        judged as a whole. Weights of the base that its task does not read (DINOv2's mask token) have none
        for ever, and full fine-tuning holds them all the same: `loss` proves them to be such.

        Args:
            adapter: After its first step, with the gradients of that.
            before: Its parameters before the step, by name.
            loss: Computes the loss of the step's rows anew.
        """
        after, parts = dict(adapter.named_parameters()), parts_of(adapter)
        silent, still = [], []
        for name, group in parts.items():
            grads = [after[key].grad for key in group]
            if not any(grad is not None and bool((grad != 0).any()) for grad in grads):
                silent.append(name)
            if all(torch.equal(after[key].detach().cpu(), before[key]) for key in group):
                still.append(name)
        unread = [name for name in silent if name in adapter.own and adapter.own[name].grad is None]
        # A model may not read a few of its weights. One that reads few computes with others than these.
        many = 2 * len(unread) > len(parts)
        if unread and (many or not without_effect([adapter.own[name] for name in unread], loss)):
            unread = []
        silent, still = ([name for name in found if name not in unread] for found in (silent, still))
        read = _many(len(parts) - len(unread), "part")
        if unread:
            read += f"; the model does not read {', '.join(unread)}"
        self.check(
            "gradient in every part",
            not silent,
            read
            if not silent
            else f"none in {_many(len(silent), 'part')} of {len(parts)}, first {silent[0]}",
            "Gradients do not reach the delta; check gradient checkpointing and the targets.",
            {"parts": len(parts), "without": silent, "unread": unread},
        )
        self.check(
            "every part changed in step one",
            not still,
            _many(len(parts) - len(unread), "part")
            if not still
            else f"{_many(len(still), 'part')} of {len(parts)} did not, first {still[0]}",
            "The learning rate may be too small for the arithmetic; raise train.lr.",
            {"parts": len(parts), "unchanged": still},
        )

    def finite(self, adapter: Adapter) -> None:
        """What was trained is numbers; a line is written only if not, before anything is saved."""
        lost = [name for name, each in adapter.named_parameters() if not each.isfinite().all()]
        if lost:
            detail = f"{_many(len(lost), 'tensor')} of the delta hold others, first {lost[0]}"
            remedy = "A loss or gradient was not finite: lower the learning rate, or clip gradients."
            self.check("finite numbers", False, detail, remedy)

    @phase("certificate")
    def final_budget(self, adapter: Adapter) -> None:
        """The method's schedule, if it has one, ended where it promises: AdaLoRA's ranks, a density."""
        remedy = "The schedule did not run to its end; train all planned steps."
        try:
            reached = adapter.finish()
        except TrainingError as error:
            self.check("final budget", False, error.what.rstrip("."), error.remedy or remedy)
            return
        numbers = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in reached.items())
        settled = adapter.settled
        detail = numbers or "the method has no schedule"
        self.check("final budget", settled, detail if settled else f"not reached ({detail})", remedy, reached)

    def base_unchanged(self, before: str, after: str, kind: str = "sha256") -> None:
        """The base has the bytes that it was loaded with: by the SHA-256 of its tensors, or a checksum."""
        same = before == after
        self.check(
            "base unchanged",
            same,
            f"{kind} {before[:12]} before and after"
            if same
            else f"{kind} {before[:12]} before, {after[:12]} after",
            "Something wrote into the base's weights, so that nothing measured on it can be trusted; please "
            "report it.",
            {"before": before, "after": after},
        )

    def reloaded(
        self,
        model: AdaptedModel,
        name: str,
        folder: Path,
        batch: Mapping[str, Tensor],
        *,
        task: str,
        fingerprint: str,
    ) -> None:
        """The delta moves the logits, and read back from its files it gives those that it gave before.

        Args:
            model: The model, in eval mode.
            name: The adapter that was saved.
            folder: Where to.
            batch: A collated batch with labels, on the model's device.
            task: The recipe's task.
            fingerprint: Hash of the base.
        """
        rows = _many(len(batch["labels"]), "row")
        self.reads_back(model, name, folder, lambda: logits(model, batch, task), rows, fingerprint)

    @phase("read back")
    def reads_back(  # noqa: PLR0917
        self,
        model: AdaptedModel,
        name: str,
        folder: Path,
        compute: Callable[[], Tensor],
        rows: str,
        fingerprint: str,
    ) -> None:
        """As `reloaded`, by whatever `compute` makes of the model as it is, in float32, of these rows."""
        line, remedy = "same after reload", "The file does not hold what was trained; please report it."
        with torch.no_grad():
            before = compute()
            with model.using():
                plain = compute()
            trained = Logits(before, plain, rows, rounding(model))
            if any(model.adapter(name).trainable()):
                self.logits_moved(trained)
            try:
                load_adapter(model, folder, RELOADED, fingerprint=fingerprint)
                after = compute()
            except AdapterError as error:
                self.check(line, False, f"it cannot be read back: {error.what.rstrip('.')}", remedy)
            finally:
                if RELOADED in model.adapters:
                    model.detach(RELOADED)
                model.use(name)
        self.equal_logits(line, trained, after, remedy)

    def logits_moved(self, trained: Logits) -> None:
        """What was trained changes what the model computes: it can learn and still be lost in rounding."""
        effect = trained.distance(trained.plain)
        self.check(
            "logits moved",
            effect != 0,
            f"the delta moves them by up to {effect:.3g} ({trained.of})",
            "What was trained is too small to change a single logit: raise train.lr, train more steps, or "
            "compute the base in a finer train.precision.",
            {"effect": effect if math.isfinite(effect) else None},
        )

    def equal_logits(self, name: str, wanted: Logits, found: Tensor, remedy: str) -> None:
        """Another computation of the same logits differs by rounding alone."""
        difference, effect, limit = wanted.distance(found), wanted.distance(wanted.plain), wanted.limit
        numbers = {"difference": difference, "limit": limit, "effect": effect}
        self.check(
            name,
            difference <= limit,
            f"logits differ by up to {difference:.3g}, allowed is {limit:.3g} ({wanted.of}; the delta moves "
            f"them by up to {effect:.3g})",
            remedy,
            {key: value if math.isfinite(value) else None for key, value in numbers.items()},
        )


def _matched(view: BaseView, selector: str, sites: list[str]) -> int:
    try:
        return len(view.select([selector], (torch.nn.Module,)).keys() & set(sites))
    except TargetError:
        return 0


def _parameters_within(model: AdaptedModel, paths: Iterable[str]) -> int:
    """Number of the base's parameters in the modules at `paths`, each counted once."""
    within = tuple(f"{path}." for path in paths)
    shapes = quant.parameter_shape(model.base)
    return sum(shape.numel() for name, shape in shapes.items() if name.startswith(within))


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def snapshot(adapter: Adapter) -> dict[str, Tensor]:
    """Copies of all parameters on the CPU, by name."""
    return {name: parameter.detach().cpu().clone() for name, parameter in adapter.named_parameters()}
