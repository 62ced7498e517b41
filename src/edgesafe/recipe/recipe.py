"""A whole recipe as one frozen record, and the variants that it asks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from edgesafe.errors import hint
from edgesafe.recipe import shipped
from edgesafe.recipe.searching import SearchSection
from edgesafe.recipe.sections import (
    CORRUPTIONS,
    CertifySection,
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
from edgesafe.records import Name, Precision, Role
from edgesafe.study import naming
from edgesafe.study.naming import VariantName

__all__ = ["Recipe", "VariantPlan", "trainings", "variants"]


class Recipe(Section):
    """The content of a recipe file: what to compress, how, and how to measure it."""

    schema_: Literal["edgesafe.recipe/1"] = Field(default="edgesafe.recipe/1", alias="schema")
    name: Name
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    threads: int = Field(default=0, ge=0, le=1024)  #: that prune and train one network; weights depend on it; 0: all
    model: ModelSection
    data: DataSection
    compress: tuple[CompressSection, ...] = ()
    train: TrainSection = TrainSection()
    recover: RecoverSection = RecoverSection()
    export: ExportSection = ExportSection()
    evaluate: EvaluateSection = EvaluateSection()
    certify: CertifySection = CertifySection()
    search: SearchSection = SearchSection()
    target: TargetSection = TargetSection()

    @model_validator(mode="after")
    def _rules_across_sections(self) -> Recipe:
        if len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError("seeds must be distinct and not negative")
        made = [name.group for block in self.compress for name, _ in _named(block, 0)]
        twice = sorted({name for name in made if made.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands twice (ratios count to two digits): give one block a label")
        for block in self.compress:
            if block.label == Role.BASELINE or (block.label in {m.value for m in type(block.method)} - {block.method}):
                raise ValueError(f"label '{block.label}' is the name of something else")
        names = self.evaluate.corruptions
        if isinstance(names, tuple):
            unknown = [name for name in names if name not in CORRUPTIONS]
            if not names:
                raise ValueError('evaluate.corruptions: an empty list; use "none" for no corruption, or "all"')
            if unknown:
                raise ValueError(f"evaluate.corruptions: unknown '{unknown[0]}'; {hint(unknown[0], CORRUPTIONS)}")
        elif names not in ("all", "none") and not names.startswith("dir:"):
            raise ValueError(f"evaluate.corruptions = '{names}'; use all, none, a list of names, or dir:PATH")
        elif names.startswith("dir:") and self.data.validation_from == "test":
            raise ValueError(
                f"evaluate.corruptions = '{names}' with data.validation_from = 'test': the directory holds every test "
                "image, also those held out for validation; use generated corruptions, or validation_from = 'train'"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """Plain JSON values with every default filled in, in the order of the sections."""
        return self.model_dump(mode="json", by_alias=True)

    def recorded(self) -> dict[str, Any]:
        """As `resolved`, for the study's record: without where pixels are held, which no result depends on."""
        plain = self.resolved()
        for key in DataSection.places():
            plain["data"].pop(key)
        return plain

    @property
    def policy_file(self) -> Path | None:
        """The file of evaluate.policy, which may be the name of one that ships; None: no policy.

        Raises:
            PolicyError: there is no such file.
        """
        name = self.evaluate.policy
        return None if name is None else shipped.find(Kind.POLICY, name)

    @property
    def recoveries(self) -> dict[str, RecoverSection]:
        """[recover], and what blocks have in its place, by the key that says so."""
        blocks = {f"compress.{k}.recover": block.recover for k, block in enumerate(self.compress)}
        return {"recover": self.recover} | {key: section for key, section in blocks.items() if section is not None}

    def recovery_of(self, section: CompressSection) -> RecoverSection:
        """A block's own recovery, or else [recover]."""
        return section.recover or self.recover

    def recovery_key(self, section: CompressSection) -> str:
        """The key that says how networks of a block recover: "compress.0.recover", or "recover" if it says nothing."""
        own = section.recover is not None and section in self.compress
        return f"compress.{self.compress.index(section)}.recover" if own else "recover"

    @property
    def ranks_by_lighting(self) -> CompressSection | None:
        """The first block that ranks channels by how lighting moves them, or None."""
        return next((block for block in self.compress if block.ranks_by_lighting), None)

    @property
    def lightings(self) -> dict[str, str]:
        """The ids of the lightings that are used, by the key that names them."""
        robust = {"train": self.train.robust} | {key: section.robust for key, section in self.recoveries.items()}
        losses = {f"{key}.robust.light": section.light for key, section in robust.items() if section.asked}
        ranked = ((n, block) for n, block in enumerate(self.compress) if block.ranks_by_lighting)
        return losses | {f"compress.{number}.light": block.light for number, block in ranked}

    @property
    def search_policy(self) -> Path | None:
        """The file of search.policy, as `policy_file`; None: the recipe does not say what a search must meet.

        Raises:
            PolicyError: there is no such file.
        """
        name = self.search.policy
        return None if name is None else shipped.find(Kind.POLICY, name)

    @property
    def sha256(self) -> str:
        """Identity of what will be computed: name, cache directory, threads and the budget of a search do not count."""
        plain = self.recorded()
        plain.pop("name")
        plain["evaluate"].pop("cache_dir")
        plain["certify"].pop("workers")
        for limit in ("trials", "inferences", "hours"):
            plain["search"].pop(limit)
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class VariantPlan(Section):
    """One variant to make: of the unpruned network if `section` is None, converted from its sibling if not fp32."""

    name: VariantName
    ratio: float
    section: CompressSection | None = None
    precision: Precision = Precision.FP32
    sibling: str | None = None  #: not fp32: id of the fp32 variant that it is converted from

    @property
    def id(self) -> str:
        """The id under which the study keeps the variant, such as "filter-r0.50-int8-s0"."""
        return self.name.id

    @property
    def seed(self) -> int:
        """Seed of initial weights, order of images and augmentation."""
        return self.name.seed

    @property
    def role(self) -> Role:
        """BASELINE if nothing is removed or converted, else CANDIDATE."""
        return Role.BASELINE if self.section is None and self.sibling is None else Role.CANDIDATE

    @property
    def baseline(self) -> str | None:
        """Id of the variant that it is compared with; None: it is a baseline itself."""
        return None if self.role is Role.BASELINE else naming.baseline(self.seed).id

    @property
    def method(self) -> str:
        """The name of the pruning method, or "baseline"."""
        return self.section.method.value if self.section is not None else Role.BASELINE.value


def variants(recipe: Recipe) -> tuple[VariantPlan, ...]:
    """All variants of a recipe in the order they are made: per seed the baseline, then block by block.

    Each is followed by the same network in the other precisions that the recipe asks for.
    """
    plans: list[VariantPlan] = []
    for seed in recipe.seeds:
        plans += _precisions(recipe, VariantPlan(name=naming.baseline(seed), ratio=0.0))
        for block in recipe.compress:
            for name, ratio in _named(block, seed):
                plans += _precisions(recipe, VariantPlan(name=name, ratio=ratio, section=block))
    return tuple(plans)


def trainings(recipe: Recipe, plans: Sequence[VariantPlan]) -> dict[str, TrainSection | RecoverSection]:
    """How networks are trained for these variants, by the key of the recipe that says so."""
    said: dict[str, TrainSection | RecoverSection] = {}
    if recipe.model.weights is None and any(plan.role is Role.BASELINE for plan in plans):
        said["train"] = recipe.train
    for plan in plans:
        if plan.section is not None and plan.sibling is None:
            said[recipe.recovery_key(plan.section)] = recipe.recovery_of(plan.section)
    return said


def _precisions(recipe: Recipe, plan: VariantPlan) -> list[VariantPlan]:
    """An fp32 variant, and its siblings."""
    others = [precision for precision in recipe.export.precisions if precision is not Precision.FP32]
    return [plan] + [
        plan.model_copy(update={"name": plan.name.at(each), "precision": each, "sibling": plan.id}) for each in others
    ]


def _named(block: CompressSection, seed: int) -> list[tuple[VariantName, float]]:
    """Names and ratios of a block's variants; a budget's ratio is found later and 0 here."""
    label = block.label or block.method.value
    if block.budget is not None:
        named = naming.at_budget(label, block.budget.resource, block.budget.value, seed)
        return [(named.sparse(block.then_weight), 0.0)]
    return [(naming.at_ratio(label, ratio, seed).sparse(block.then_weight), ratio) for ratio in block.ratios]
