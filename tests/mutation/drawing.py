"""The draw: random places of the code, and a random change of each, by Cosmic Ray's operators."""

from __future__ import annotations

import difflib
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from selecting import room_of

ROOT = Path(__file__).resolve().parents[2]
_LEFT_OUT = (
    "BitOr_",  # in annotations, which are never computed
    "RemoveDecorator",
    "Variable",
)


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        file: The file, relative to the repository.
        line: The line that changes.
        operator: Cosmic Ray's name of the change.
        occurrence: The number of the changed place among all places in the file that the operator
            can change.
    """

    file: str
    line: int
    operator: str
    occurrence: int

    def code(self, root: Path) -> str:
        """Return the changed code."""
        source = (root / self.file).read_text(encoding="utf-8")
        changed = mutate_code(source, get_operator(self.operator)(), self.occurrence)
        assert changed is not None
        return str(changed)


def places(path: Path) -> dict[tuple[object, object], list[Mutant]]:
    """Return the mutants of a file, by the start and end of the code that they change."""
    nodes = list(ast_nodes(get_ast_from_path(path)))
    found: dict[tuple[object, object], list[Mutant]] = defaultdict(list)
    for name in operator_names():
        if any(part in name for part in _LEFT_OUT):
            continue
        operator, count = get_operator(name)(), 0
        for node in nodes:
            for start, stop in operator.mutation_positions(node):
                mutant = Mutant(str(path.relative_to(ROOT)), start[0], name, count)
                found[start, stop].append(mutant)
                count += 1
    return found


def draw(count: int, seed: int) -> list[Mutant]:
    """Return random mutants, at most one per place; each place is equally probable."""
    files = sorted((ROOT / "siamkit").rglob("*.py"))
    every = [mutants for path in files for mutants in places(path).values()]
    rng = random.Random(seed)
    order = rng.sample(range(len(every)), min(count, len(every)))
    drawn = [mutant for at in order if can_be_made(mutant := rng.choice(every[at]))]
    left = sorted(set(range(len(every))) - set(order))
    while left and len(drawn) < count:
        mutant = rng.choice(every[left.pop(rng.randrange(len(left)))])
        drawn += [mutant] if can_be_made(mutant) else []
    return drawn


def can_be_made(mutant: Mutant) -> bool:
    """Return whether the operator can make the change: some fail at names with dots."""
    try:
        mutant.code(ROOT)
    except AttributeError:
        return False
    return True


def in_rooms(mutants: list[Mutant], rooms: list[str] | None) -> list[Mutant]:
    """Return the mutants in some rooms, in the order of the rooms; without rooms, all mutants."""
    if rooms is None:
        return mutants
    room = {mutant: room_of(mutant.file) or "modules" for mutant in mutants}
    chosen = [mutant for mutant in mutants if room[mutant] in rooms]
    return sorted(chosen, key=lambda mutant: rooms.index(room[mutant]))


def shown(mutant: Mutant) -> str:
    """Return a mutant as a diff."""
    before = (ROOT / mutant.file).read_text(encoding="utf-8").splitlines()
    after = mutant.code(ROOT).splitlines()
    diff = difflib.unified_diff(before, after, mutant.file, mutant.operator, lineterm="", n=1)
    return "\n".join(diff)
