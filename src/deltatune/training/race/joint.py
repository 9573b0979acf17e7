"""The gradients of several runs from one pass through the base that they share."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence

import torch

from deltatune.core.adapter import Adapter
from deltatune.core.delta import Dropout
from deltatune.core.devices import synchronize, to_device
from deltatune.core.loss import count_targets, logits_for, loss_of, weight_of
from deltatune.memory.batch import shape_of
from deltatune.timeline import phase
from deltatune.training.loop.steps import Gradients
from deltatune.training.loop.trainer import Trainer


@phase("training")
def joint_gradients(asked: Sequence[tuple[Trainer, list[int]]]) -> list[Gradients]:
    """Gradients of each run's mean loss over its rows, by one forward and one backward pass.

    Args:
        asked: Runs on one model, and the rows that each asks for.

    Raises:
        DeltatuneError: Rows cannot be told apart somewhere in this base.
    """
    trainers = [trainer for trainer, _ in asked]
    meter, worked = trainers[0].meter, time.process_time()
    begun = meter.read()
    model, encoder = trainers[0].model, trainers[0].encoder
    features = [trainer.train.features[row] for trainer, rows in asked for row in rows]
    batch = to_device(encoder.collate(features), model.device)
    routes, end = {}, 0
    for trainer, rows in asked:
        routes[trainer.name] = slice(end, end + len(rows))
        end += len(rows)
    batches = [{name: tensor[rows] for name, tensor in batch.items()} for rows in routes.values()]
    counts = [count_targets(part, encoder.task) for part in batches]
    weights = [trainer.class_weights for trainer in trainers]
    divisors = [weight_of(part, encoder.task, each) for part, each in zip(batches, weights, strict=True)]
    with model.routing(routes, end):
        trainers[0].train_mode()
        logits, targets = logits_for(model, batch, encoder.task)  # row after row, so run after run
        losses = [
            loss_of(encoder.task, predicted, wanted, each, trainer.spec.loss) / divisor
            for trainer, predicted, wanted, each, divisor in zip(
                trainers, logits.split(counts), targets.split(counts), weights, divisors, strict=True
            )
        ]
        del logits
        penalties = [penalty for each in trainers if (penalty := each.adapter.penalty()) is not None]
        torch.stack([*losses, *penalties]).sum().backward()
    synchronize(model.device)  # else the first run's step would wait, and be said to have taken, for all
    spent, worked = meter.read().since(begun), time.process_time() - worked
    lengths = [sum(trainer.train.lengths[row] for row in rows) for trainer, rows in asked]
    shares = [length / sum(lengths) for length in lengths]
    return [
        Gradients([loss.detach()], [(rows, part)], divisor, spent.share(share), len(asked), worked * share)
        for (_, rows), loss, part, divisor, share in zip(
            asked, losses, batches, divisors, shares, strict=True
        )
    ]


def together_key(trainer: Trainer, rows: Sequence[int]) -> Hashable:
    """What the requests that share a pass have in common: nothing, unless dropout masks depend on it.

    A mask is drawn for its whole tensor, so a run with dropout has the masks that it has alone only among
    rows that are padded to the same length, behind as many learned tokens.
    """
    if not _drops(trainer.adapter):
        return None
    shape = shape_of([trainer.train.features[row] for row in rows], trainer.encoder.task)
    prompt = trainer.adapter.prompt
    lengths = shape.length, shape.target_length, shape.of_a_row if shape.labelled else 0
    return *lengths, 0 if prompt is None else len(prompt())


def _drops(adapter: Adapter) -> bool:
    return any(isinstance(module, Dropout) and module.p > 0 for module in adapter.modules())
