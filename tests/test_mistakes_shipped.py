"""Mistakes planted by a generator into every shipped recipe: all refused, at the right line, with the right name for the typos."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import mistakes
from recipeline import recipe, settings
from recipeline.assemble import check

PROJECT = Path(__file__).parents[1]
SHIPPED = sorted((PROJECT / "recipes").rglob("*.yaml"))
KINDS = {
    "grammar key", "range key", "word", "wrong value", "wrong level", "duplicate", "synonyms", "argument", "class path", "metric",
    "splitter", "splitter argument", "interface", "task",
}  # fmt: skip


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_sound(path: Path) -> None:
    """No problem in any of them, with and without a look at the classes."""
    configured = settings.load(project=PROJECT, environ={})
    assert check(recipe.draft(path), configured) == []
    assert check(recipe.draft(path), configured, fast=True) == []


def test_every_planted_mistake_is_refused_at_its_line_and_typos_get_the_right_name() -> None:
    """Typos, wrong types, wrong levels, duplicates; the seed is drawn anew each time, and printed."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    configured = settings.load(project=PROJECT, environ={})
    planted: Counter[str] = Counter()
    typos: Counter[str] = Counter()
    right: Counter[str] = Counter()
    missed, unnamed = [], []
    for path in SHIPPED:
        for _ in range(3):
            for mistake in mistakes.planted(path.read_text(encoding="utf-8"), rng, classes=True):
                planted[mistake.kind] += 1
                problems = check(replace(recipe.draft(mistake.text), path=path), configured)  # its query stands beside it
                line = mistake.text.split("\n")[mistake.line - 1]
                said = f"seed {seed}, {path.stem}:{mistake.line} ({mistake.kind}): {line.strip()}\n    {[str(one) for one in problems]}"
                if not problems or not mistakes.found(mistake, problems) or any(one.exit_code not in {3, 4} for one in problems):
                    missed.append(said)
                if mistake.suggestion is not None:
                    typos[mistake.kind] += 1
                    if mistakes.suggested(mistake, problems):
                        right[mistake.kind] += 1
                    else:
                        unnamed.append(f"{said}; {mistake.suggestion} expected")
    print(f"{planted.total()} mistakes in {len(SHIPPED)} recipes, {typos.total()} typos, {right.total()} with the right name")
    print("\n".join(f"{kind:<18}{planted[kind]:>5} planted{right[kind]:>5} of {typos[kind]} named" for kind in sorted(planted)))
    print("\n".join(unnamed))
    assert set(planted) == KINDS
    assert missed == [], "\n".join(missed)
    assert right.total() >= 0.9 * typos.total(), f"seed {seed}"
