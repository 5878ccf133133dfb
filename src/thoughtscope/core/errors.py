"""Every mistake a user can make, as a `ValueError` that names the value, what is allowed, and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


class ThoughtscopeError(ValueError):
    """The root of the package's user errors. `code` is the stable word used in HTTP and `--json` answers."""

    code = "invalid"


class UnknownModel(ThoughtscopeError):
    """A model name or path that cannot be found."""

    code = "unknown_model"


class UnsupportedModel(ThoughtscopeError):
    """A model whose family is not known, or whose probes failed; the message gives the reason."""

    code = "unsupported_model"


class UnknownSite(ThoughtscopeError):
    """A site that does not parse, or that this model family does not have."""

    code = "unknown_site"


class UnknownFeature(ThoughtscopeError):
    """A feature, node or supernode that does not exist."""

    code = "unknown_feature"


class DictionaryMismatch(ThoughtscopeError):
    """A dictionary that does not fit the model, or that failed its preflight."""

    code = "dictionary_mismatch"


class CorruptArtefact(ThoughtscopeError):
    """A file that is missing, truncated, altered, or not in the declared format. Names the file."""

    code = "corrupt_artefact"


class LimitExceeded(ThoughtscopeError):
    """Input over a stated limit (prompt tokens, body size, nodes)."""

    code = "limit_exceeded"


class OutOfMemory(ThoughtscopeError):
    """There was not memory enough, also not for the smallest piece of the work."""

    code = "out_of_memory"


class PathOutsideRoot(ThoughtscopeError):
    """A path that resolves outside the folder it must stay in."""

    code = "path_outside_root"


class InvalidGraph(ThoughtscopeError):
    """A graph file that does not follow the published schema. Names the first offending field."""

    code = "invalid_graph"


class InvalidPlan(ThoughtscopeError):
    """An intervention plan that cannot be carried out; says which edit and why."""

    code = "invalid_plan"


class UnknownGraph(ThoughtscopeError):
    """A name under which no graph is kept."""

    code = "unknown_graph"


class NoModel(ThoughtscopeError):
    """What was asked needs a model and its dictionary, and there is none, or another one than the graph's."""

    code = "no_model"


class FolderInUse(ThoughtscopeError):
    """A folder in which another process has been writing for too long to wait. Names the folder."""

    code = "busy"


class NotWritten(ThoughtscopeError):
    """A file that could not be written: the disk is full or read-only, or the folder belongs to somebody else."""

    code = "not_written"


class NotFetched(ThoughtscopeError):
    """A model that could not be fetched, or what was fetched is not what it should be; says what to do."""

    code = "not_fetched"


class NotAgreed(ThoughtscopeError):
    """Something would be sent to another machine, and nobody agreed to it. Says what, where to, and what it costs."""

    code = "not_agreed"


class NotAnswered(ThoughtscopeError):
    """An assistant that does not answer; says what came instead."""

    code = "not_answered"


class MissingExtra(ThoughtscopeError):
    """A package that only some files need, and that is not installed. Names the extra to install."""

    code = "missing_extra"


class BrokenPlugin(ThoughtscopeError):
    """An installed package offers something that cannot be loaded. Names the package."""

    code = "broken_plugin"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file that cannot be used, while everything beside it goes on: which one, and why, with the fix."""

    file: str
    why: str


def describe_choices(
    value: object, allowed: Iterable[object], *, what: str, limit: int = 12, listed: str = "Allowed"
) -> str:
    """`"foo" is not a site kind. Allowed: a, b, … Did you mean "fo"?` — one sentence for every lookup error.

    With `listed="Nearest"` the choices come sorted by their distance, so that no guess has to follow.
    """
    names = [str(name) for name in allowed]
    shown = ", ".join(names[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")
    near = [] if listed == "Nearest" else get_close_matches(str(value), names, n=1, cutoff=0.6)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    return f'"{value}" is not a {what}. {listed}: {shown or "none"}.{hint}'
