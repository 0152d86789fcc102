"""Bodies of requests that are no resources, as pydantic models; what is wrong with one, as the API says it. Pure."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from inventory.errors import Invalid, Problem


class Body(BaseModel):
    """Exactly these members, of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True)


B = TypeVar("B", bound=BaseModel)


def read(model: type[B], given: Any) -> B:
    """Raises Invalid naming each wrong member."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems = tuple(
            Problem("".join(f"/{part}" for part in each["loc"]), _words(model, each))
            for each in error.errors(include_url=False, include_input=False)
        )
        raise Invalid("; ".join(f"{p.pointer.lstrip('/') or 'body'}: {p.detail}" for p in problems), errors=problems) from None


def _words(model: type[BaseModel], error: Any) -> str:
    """What was expected; of a pattern the field's description, as a regular expression tells few people anything."""
    field = model.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    described = field.description if field is not None and error["type"] == "string_pattern_mismatch" else None
    return f"must be {described}" if described else str(error["msg"])
