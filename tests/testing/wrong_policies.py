"""Wrong freeze policies."""

from __future__ import annotations

import random

from mutant import Mutant

from siamkit.interfaces import FreezePlan, FreezePolicy


def policy(plan, *, metric_driven=False, **state):
    """Return the build of a policy with this method ``plan(self, stages, progress)``."""

    class Policy(FreezePolicy):
        def __init__(self):
            self.__dict__.update({key: make() for key, make in state.items()})

    Policy.plan = plan
    Policy.metric_driven = metric_driven
    Policy.__abstractmethods__ = frozenset()
    return lambda options: Policy()


def body(stages):
    return [stage.name for stage in stages if stage.name != "head"]


def of(stages, train=(), **more):
    return FreezePlan.of(stages, list(train), **more)


def keras_patience(self, stages, progress):
    """The patience of a Keras callback: it remembers the best value and how long ago it was."""
    if progress.history:
        value = progress.monitored[-1]
        if value >= self.memory.get("best", 0.0):
            self.memory.update(best=value, wait=0)
        else:
            self.memory["wait"] = self.memory.get("wait", 0) + 1
    return of(stages, body(stages)[-1:] if self.memory.get("wait", 0) >= 2 else ())


def falling(self, stages, progress):
    """Reads the history, but only where it gets worse."""
    values = progress.monitored
    worse = len(values) > 1 and values[-1] < values[-2]
    return of(stages, body(stages)[-1:] if worse else ())


def runs_out(self, stages, progress):
    names = body(stages)[::-1]
    return of(stages, [names[progress.epoch]])


def long_table(self, stages, progress):
    return of(stages, [body(stages)[-1]] if (True, False)[progress.epoch // 30] else [])


def first_branch_only(self, stages, progress):
    if progress.epoch < 3:
        return of(stages)


def keeps_one_plan(self, stages, progress):
    plan = self.kept.setdefault("plan", of(stages))
    plan.lr_mult[stages[0].name] = 1.0 / (1 + progress.epoch)
    return plan


def forgets_the_end(self, stages, progress):
    return of(stages, head=progress.epoch < 4)


def pops_metrics(self, stages, progress):
    for metrics in progress.history:
        metrics.pop("train_loss", None)
    return of(stages)


def by_share(share):
    return lambda self, stages, p: of(stages, body(stages)[-1:] if p.fraction >= share else ())


MUTANTS = [
    Mutant(name, "freeze_policies", build, wrong, says)
    for name, build, wrong, says in [
        ("resnet-names", policy(lambda self, s, p: FreezePlan(frozenset(
            n for t in s if {"layer4": 1, "head": 1}[t.name] for n in t.parameters))),
         "knows the stages of a ResNet alone", "KeyError"),
        ("three-from-the-end", policy(lambda self, s, p: of(s, [s[-3].name, s[-4].name])),
         "assumes four stages", "IndexError"),
        ("head-is-last", policy(lambda self, s, p: FreezePlan(frozenset(s[-1].parameters))),
         "takes the last stage for the head", "head"),
        ("head-is-there", policy(lambda self, s, p: FreezePlan(frozenset(
            next(t for t in s if t.name == "head").parameters))),
         "assumes that there is a head with parameters", "StopIteration"),
        ("blocks-are-there", policy(lambda self, s, p: of(s, [s[0].blocks[0].name])),
         "assumes that each stage has blocks", "IndexError"),
        ("by-fraction", policy(by_share(0.5)),
         "unfreezes in the middle of the run, so prolonging it changes its past", "epochs"),
        ("last-epoch", policy(lambda self, s, p: of(
            s, body(s)[-1:] if p.epoch == p.epochs - 1 else ())),
         "unfreezes in the last epoch, whichever that is", "epochs"),
        ("one-epoch", policy(lambda self, s, p: of(
            s, lr_mult={s[0].name: p.epoch // (p.epochs - 1)})),
         "divides by the epochs but one", "ZeroDivisionError"),
        ("by-step", policy(lambda self, s, p: of(s, body(s)[-1:] if p.step >= 100 else ())),
         "waits for a step, which a policy never sees", "step"),
        ("empty-history", policy(lambda self, s, p: of(
            s, body(s)[-1:] if p.monitored[-1] > 0.5 else ()), metric_driven=True),
         "reads the last metric before there is one", "IndexError"),
        ("recall-alone", policy(lambda self, s, p: of(
            s, body(s)[-1:] if any(m["recall@1"] > 0.5 for m in p.history) else ()),
            metric_driven=True),
         "reads recall@1, which pairs do not have", "recall@1"),
        ("val-loss", policy(lambda self, s, p: of(
            s, body(s)[-1:] if any(m["val_loss"] < 0.5 for m in p.history) else ()),
            metric_driven=True),
         "reads a metric of another framework", "val_loss"),
        ("undeclared", policy(falling),
         "reads the history without saying so, and only where it falls", "metric_driven"),
        ("remembers-the-best", policy(keras_patience, metric_driven=True, memory=dict),
         "keeps the best metric in itself, so a resumed run forgets it", "same plan"),
        ("counts-epochs", policy(lambda self, s, p: self.seen.append(0) or of(
            s, body(s)[-1:] if len(self.seen) > 5 else ()), seen=list),
         "counts its calls instead of reading the epoch", "same plan"),
        ("draws-in-turn", policy(lambda self, s, p: of(s, [self.rng.choice(body(s))]),
                                 rng=lambda: random.Random(0)),
         "draws from a seeded generator, in the order of its calls", "same plan"),
        ("draws-anew", policy(lambda self, s, p: of(s, [self.first[0]][: 0 if self.first[0]
                              not in body(s) else 1], lr_mult={s[0].name: self.first[1]}),
                              first=lambda: ("-", random.random())),
         "draws once when it is built, so a resumed run draws again", "same plan"),
        ("one-plan-for-all", policy(keeps_one_plan, kept=dict),
         "changes the plan that it returned before", "same plan"),
        ("stage-names", policy(lambda self, s, p: FreezePlan(frozenset(body(s)))),
         "names stages where parameters are meant", "names of parameters"),
        ("backbones-names", policy(lambda self, s, p: FreezePlan(frozenset(
            n.removeprefix("backbone.") for t in s for n in t.parameters))),
         "uses the backbone's own parameter names", "names of parameters"),
        ("rate-by-parameter", policy(lambda self, s, p: of(
            s, lr_mult={s[0].parameters[0]: 0.1})),
         "gives rates by parameter", "lr_mult"),
        ("rate-as-text", policy(lambda self, s, p: of(s, lr_mult={s[0].name: "0.1"})),
         "gives a rate as text", "rate multipliers"),
        ("rates-of-zero", policy(lambda self, s, p: of(
            s, lr_mult={t.name: 0.0 for t in s})),
         "trains everything at a rate of zero", "above zero"),
        ("runs-out-of-stages", policy(runs_out),
         "goes one stage down each epoch, without an end", "IndexError"),
        ("runs-out-late", policy(long_table), "has a table for 60 epochs", "IndexError"),
        ("one-branch", policy(first_branch_only), "returns nothing from the fourth epoch on",
         "FreezePlan"),
        ("nothing-trains", policy(forgets_the_end), "trains nothing after four epochs",
         "nothing trains"),
        ("needs-a-head", policy(lambda self, s, p: of(s)),
         "trains the head alone, so nothing where the head has no parameters: that is refused "
         "by the run, as freeze-all is", ""),
        ("pops-metrics", policy(pops_metrics), "changes the run's history", "history"),
        ("no-plan", policy(lambda self, s: of(s)), "plan lacks its second argument", "TypeError"),
        ("exits", policy(lambda self, s, p: exit(2)), "ends the program", "SystemExit"),
        ("property-plan", lambda options: FreezePolicy(), "has no plan at all", "build"),
    ]
]  # fmt: skip

UNCAUGHT = [m for m in MUTANTS if not m.says]
UNCAUGHT += [
    Mutant("one-too-late", "freeze_policies", policy(
        lambda self, s, p: of(s, body(s)[-1:] if p.epoch > 2 else ())),
           "unfreezes one epoch later than its option says: only its author knows", ""),
    Mutant("hash-order", "freeze_policies", policy(
        lambda self, s, p: of(s, sorted(body(s), key=hash)[:2])),
           "depends on the hashes of strings, which differ from process to process", ""),
]  # fmt: skip
MUTANTS = [m for m in MUTANTS if m.says]
