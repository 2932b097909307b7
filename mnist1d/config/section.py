"""What every section of the configuration shares: strict values, and rules over several keys."""

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from mnist1d.config.faults import Fault

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Size = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A group of keys: no unknown ones, no silent conversions, no changes after validation."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    def conflicts(self) -> Iterator[Fault]:
        """Faults that only show when several keys are seen together."""
        return iter(())

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> Self:
        if faults := list(self.conflicts()):
            raise PydanticCustomError("conflict", "{text}", {"text": "\n".join(map(str, faults)), "faults": faults})
        return self
