"""What all sections of a recipe share: the base class, and numbers within ranges."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Count", "Epoch", "NonNegative", "Positive", "Ratio", "Section", "Severity"]

Ratio = Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1024)]
Epoch = Annotated[int, Field(ge=1)]
Severity = Annotated[int, Field(ge=1, le=5)]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys are errors, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
