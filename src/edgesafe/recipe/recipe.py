"""A whole recipe as one frozen record, and the variants that it asks for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from edgesafe.recipe import shipped
from edgesafe.recipe.sections import (
    CORRUPTIONS,
    CompressSection,
    DataSection,
    EvaluateSection,
    ExportSection,
    ModelSection,
    RecoverSection,
    Section,
    TargetSection,
    TrainSection,
)
from edgesafe.recipe.shipped import Kind

__all__ = ["Recipe", "VariantPlan", "variants"]


class Recipe(Section):
    """A whole recipe, schema edgesafe.recipe/1."""

    schema_: Literal["edgesafe.recipe/1"] = Field(default="edgesafe.recipe/1", alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    model: ModelSection
    data: DataSection
    compress: tuple[CompressSection, ...] = ()
    train: TrainSection = TrainSection()
    recover: RecoverSection = RecoverSection()
    export: ExportSection = ExportSection()
    evaluate: EvaluateSection = EvaluateSection()
    target: TargetSection = TargetSection()

    @model_validator(mode="after")
    def _rules_across_sections(self) -> Recipe:
        if len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError("seeds must be distinct and not negative")
        made = [name for block in self.compress for name, _ in _named(block)]
        twice = sorted({name for name in made if made.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands twice (ratios count to two digits): give one block a label")
        for block in self.compress:
            if block.label == "baseline" or (block.label in {m.value for m in type(block.method)} - {block.method}):
                raise ValueError(f"label '{block.label}' is the name of something else")
        names = self.evaluate.corruptions
        if isinstance(names, tuple):
            unknown = [name for name in names if name not in CORRUPTIONS]
            if unknown or not names:
                raise ValueError(f"evaluate.corruptions: unknown {unknown}; known: {', '.join(CORRUPTIONS)}")
        elif names not in ("all", "none") and not names.startswith("dir:"):
            raise ValueError(f"evaluate.corruptions = '{names}': use all, none, a list of names, or dir:PATH")
        elif names.startswith("dir:") and self.data.validation_from == "test":
            raise ValueError(
                f"evaluate.corruptions = '{names}' with data.validation_from = 'test': the directory holds every test "
                "image, also those held out for validation; use generated corruptions, or validation_from = 'train'"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """Plain JSON values with every default filled in, in the order of the sections."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def policy_file(self) -> Path | None:
        """The file of evaluate.policy, which may be the name of one that ships; None: no policy.

        Raises:
            PolicyError: there is no such file.
        """
        name = self.evaluate.policy
        return None if name is None else shipped.find(Kind.POLICY, name)

    @property
    def sha256(self) -> str:
        """Identity of what will be computed: the name and the cache directory do not count."""
        plain = self.resolved()
        plain.pop("name")
        plain["evaluate"].pop("cache_dir")
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class VariantPlan(Section):
    """One variant to make: the baseline if `section` is None."""

    id: str
    label: str
    ratio: float
    seed: int
    section: CompressSection | None = None

    @property
    def method(self) -> str:
        """The method's name, or "baseline"."""
        return self.section.method.value if self.section is not None else "baseline"


def variants(recipe: Recipe) -> tuple[VariantPlan, ...]:
    """All variants of a recipe in the order they are made: per seed the baseline, then block by block."""
    plans: list[VariantPlan] = []
    for seed in recipe.seeds:
        plans.append(VariantPlan(id=f"baseline-s{seed}", label="baseline", ratio=0.0, seed=seed))
        for block in recipe.compress:
            plans += [
                VariantPlan(
                    id=f"{name}-s{seed}", label=block.label or block.method.value, ratio=ratio, seed=seed, section=block
                )
                for name, ratio in _named(block)
            ]
    return tuple(plans)


def _named(block: CompressSection) -> list[tuple[str, float]]:
    """Names (without seed) and ratios of a block's variants; a budget's ratio is found later and 0 here."""
    label = block.label or block.method.value
    if block.budget is not None:
        return [(f"{label}-{block.budget.resource}{block.budget.value:g}", 0.0)]
    return [(f"{label}-r{ratio:.2f}", ratio) for ratio in block.ratios]
