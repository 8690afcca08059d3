"""Where things are in the user's module: the transformers model and its classifier head."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from contpeft.errors import NotFoundError, SpecError, suggest

__all__ = ["HEADS_IN_MODEL", "find_head", "find_model", "get_path", "set_path"]

# How transformers models name their classifier; language-model heads are part of the base.
HEADS_IN_MODEL = ("classifier", "score", "qa_outputs", "classification_head")
_HEADS_IN_MODULE = ("head", "classifier", "score")


def find_model(module: nn.Module, path: str | None = None) -> tuple[str, nn.Module]:
    """Returns the transformers model inside ``module`` and its dotted path.

    Args:
        module: the user's module.
        path: where the model is; found when None.

    Raises:
        NotFoundError: if nothing is at ``path``, or there is no transformers model at all.
        SpecError: if there are several and ``path`` does not say which, or says what is none.
    """
    found = _outermost_models(module)
    if path is not None:
        model = get_path(module, path)
        if model is None:
            raise NotFoundError(f"{type(module).__name__} has no module {path!r}{suggest(path, found)}")
        model = getattr(model, "_orig_mod", model)
        if not isinstance(model, PreTrainedModel):
            raise SpecError(
                f"{type(module).__name__}.{path} is a {type(model).__name__}, not a transformers model"
                f"{suggest(path, found)}"
            )
        return path, model
    if not found:
        raise NotFoundError(
            f"no transformers model inside {type(module).__name__}; build it before the fit starts, "
            "or name the attribute that holds it (module='...')"
        )
    if len(found) > 1:
        raise SpecError(
            f"{type(module).__name__} holds {len(found)} transformers models: {', '.join(found)}; "
            "say which one with module='...'"
        )
    return next(iter(found.items()))


def find_head(module: nn.Module, model: nn.Module, model_path: str, path: str | None = None) -> str | None:
    """Returns the dotted path of the classifier head in ``module``, or None if there is none.

    Args:
        module: the user's module.
        model: the transformers model in it.
        model_path: where that is.
        path: where the head is; found when None, by the names transformers gives classifiers
            and then by the names ``head``, ``classifier``, ``score`` on the user's module.

    Raises:
        NotFoundError: if nothing is at ``path``.
    """
    if path is not None:
        if get_path(module, path) is None:
            names = [name for name, _ in module.named_modules() if name]
            raise NotFoundError(f"{type(module).__name__} has no head {path!r}{suggest(path, names)}")
        return path
    for name in HEADS_IN_MODEL:
        if isinstance(getattr(model, name, None), nn.Module):
            return f"{model_path}.{name}" if model_path else name
    for name in _HEADS_IN_MODULE:
        child = getattr(module, name, None)
        if isinstance(child, nn.Module) and child is not model:
            return name
    return None


def get_path(module: nn.Module, path: str) -> nn.Module | None:
    """Returns the module at a dotted path (``""`` is ``module`` itself), or None."""
    current: object = module
    for part in path.split(".") if path else ():
        current = getattr(current, part, None)
    return current if isinstance(current, nn.Module) else None


def set_path(module: nn.Module, path: str, value: nn.Module) -> None:
    """Puts ``value`` at a dotted path whose parent exists."""
    parent, _, name = path.rpartition(".")
    holder = get_path(module, parent)
    if holder is None:
        raise NotFoundError(f"{type(module).__name__} has no module {parent!r}")
    setattr(holder, name, value)


def _outermost_models(module: nn.Module) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for name, child in module.named_modules():
        inside = any(name.startswith(f"{outer}.") or outer == "" for outer in found)
        if isinstance(child, PreTrainedModel) and not inside:
            found[name.replace("._orig_mod", "")] = child
    return found
