"""`thoughtscope intervene`: change features, and print what happens to the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from thoughtscope.cli.asking import Answer, Chat, System, asked
from thoughtscope.cli.console import emit, printable, progress_bar, quoted
from thoughtscope.cli.options import Bos, Device, DictionaryName, DType, Json, ModelName
from thoughtscope.cli.tracing import traced
from thoughtscope.core.errors import InvalidPlan, UnknownFeature, describe_choices
from thoughtscope.microscope.intervening import Attention, Change, Op

Name = tuple[str, str]
"""What is changed: `node`, `supernode` or `at`, and its name."""


def intervene(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt (or --chat, or --graph, whose prompt is used).")
    ] = None,
    chat: Chat = None,
    system: System = None,
    answer: Answer = None,
    nodes: Annotated[
        list[str] | None, typer.Option("--node", "-n", help="feature:LAYER:POSITION:INDEX; may be repeated.")
    ] = None,
    supernodes: Annotated[
        list[str] | None,
        typer.Option("--supernode", help="A group by its name, as `trace` prints them; may be repeated."),
    ] = None,
    places: Annotated[
        list[str] | None,
        typer.Option("--at", help="Every feature of the pruned graph at this token; may be repeated."),
    ] = None,
    scale: Annotated[
        list[float] | None,
        typer.Option(help="Multiply: -1 flips, 0 turns off. One for all nodes, or one for each."),
    ] = None,
    set_value: Annotated[list[float] | None, typer.Option("--set", help="Set to this activation.")] = None,
    add: Annotated[list[float] | None, typer.Option(help="Add this much activation.")] = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Turn off (the default when no value is given).")
    ] = False,
    graph_file: Annotated[
        Path | None, typer.Option("--graph", help="A graph file of this model and dictionary.")
    ] = None,
    attention: Annotated[
        str, typer.Option(help="frozen: attention as without the change; free: recomputed.")
    ] = "frozen",
    max_new_tokens: Annotated[
        int, typer.Option(min=0, max=1000, help="Also continue the text, before and after.")
    ] = 0,
    model: ModelName = "specimen",
    dictionary: DictionaryName = None,
    device: Device = None,
    dtype: DType = None,
    bos: Bos = None,
    as_json: Json = False,
) -> None:
    """Runs the plan and prints before and after."""
    names = [
        (kind, name)
        for kind, given in (("node", nodes), ("supernode", supernodes), ("at", places))
        for name in given or ()
    ]
    changes = changes_of(names, scale=scale or (), set_value=set_value or (), add=add or (), ablate=ablate)
    check_request([prompt, chat, graph_file], names)
    request = None if graph_file is not None else asked(prompt, chat, system, answer)
    way(attention)

    from thoughtscope import microscope
    from thoughtscope.cli.summary import spoken
    from thoughtscope.graphs import read_json
    from thoughtscope.reports.payload import labelled, outcome_json

    said: Sequence[str] = ()
    given = None if graph_file is None else read_json(graph_file)
    with progress_bar(quiet=as_json) as progress:
        opened = microscope.open_microscope(model, dictionary, device=device, dtype=dtype, progress=progress)
    if given is None:
        assert request is not None
        done = traced(opened, request.prompt, bos=bos, as_json=as_json, node_mass=None)
        graph, said = done.graph, done.warnings
    else:
        graph = labelled(given, bank=None, labels=opened.labels)
    options: dict[str, Any] = {"attention": way(attention), "max_new_tokens": max_new_tokens}
    with progress_bar(quiet=as_json) as progress:
        outcome = microscope.intervene(opened, graph, changes, progress=progress, **options)
    labels = opened.labels.of(opened.dictionary.name)
    data = outcome_json(outcome, graph, bank=opened.bank, labels=labels)
    if as_json:
        emit({"prompt": graph.prompt, **spoken(graph), **data, "warnings": said})
    else:
        print(outcome_text(graph.heading, data))


def check_request(of: Sequence[str | Path | None], names: Sequence[Name]) -> None:
    """Refuses what cannot work before a model is loaded."""
    if sum(each is not None for each in of) != 1:
        raise InvalidPlan("Give a prompt, --chat or --graph FILE, one of them.")
    if not names:
        raise InvalidPlan(
            "Name what to change: --at TOKEN, --node feature:LAYER:POSITION:INDEX, or --supernode LABEL."
        )
    for kind, name in names:
        if kind == "node" and ":" not in name and not re.fullmatch(r"\d+_\d+_\d+", name):
            raise UnknownFeature(
                f'"{name}" is no feature: write feature:LAYER:POSITION:INDEX, as `trace` prints them.'
            )


def way(attention: str) -> Attention:
    """The option as what the verb takes. Raises `InvalidPlan`."""
    ways: dict[str, Attention] = {"frozen": "frozen", "free": "free"}
    if attention in ways:
        return ways[attention]
    raise InvalidPlan(describe_choices(attention, ways, what="way to treat attention"))


def changes_of(
    names: Sequence[Name],
    *,
    scale: Sequence[float],
    set_value: Sequence[float],
    add: Sequence[float],
    ablate: bool,
) -> list[Change]:
    """Each name with its operation: one value goes to all, several go to the names in order.

    Raises `InvalidPlan` for no or two operations, and for a count that does not fit.
    """
    given: dict[Op, Sequence[float]] = {"scale": scale, "set": set_value, "add": add}
    chosen = [op for op, values in given.items() if values]
    if len(chosen) + ablate > 1:
        raise InvalidPlan("Choose one of --scale, --set, --add and --ablate.")
    if not chosen:
        return [change_of(name, "ablate", None) for name in names]
    (op,), values = chosen, list(given[chosen[0]])
    if len(values) == 1:
        values *= len(names)
    if len(values) != len(names):
        raise InvalidPlan(
            f"--{op} was given {len(values)} times for {len(names)} nodes. Give it once, or once for each."
        )
    return [change_of(name, op, value) for name, value in zip(names, values, strict=True)]


def change_of(name: Name, op: Op, value: float | None) -> Change:
    """One change as the verb takes it."""
    kind, text = name
    if kind == "node":
        return Change(nodes=(text,), op=op, value=value)
    return Change(**{kind: text}, op=op, value=value)


def outcome_text(prompt: str, data: dict[str, Any]) -> str:
    """Before and after, side by side, and what else moved."""
    before, after = data["before"]["top"][:5], data["after"]["top"][:5]
    width = max(len(quoted(row["text"])) for row in [*before, *after])
    lines = [printable(prompt), "", f"{'Before':<{width + 12}}After"]
    for old, new in zip(before, after, strict=False):
        left = f"  {quoted(old['text']):<{width}} {old['probability']:6.1%}"
        lines.append(f"{left:<{width + 12}}  {quoted(new['text']):<{width}} {new['probability']:6.1%}")
    rank = f"rank {data['rank_before']} → {data['rank_after']}"
    lines += ["", f"The answer {quoted(str(data['answer']))}: {rank}; KL divergence {data['kl']:.3f} nats"]
    lines += verdict_lines(data)
    changes = data["feature_changes"][:6]
    if changes:
        lines += ["", "Other features that changed most"]
        for row in changes:
            label = printable(row.get("label") or f"#{row['index']}")
            lines.append(
                f"  L{row['layer']} at {row['position']:<3} {label:<28} {row['before']:8.2f} → {row['after']:.2f}"
            )
    if data.get("generation_after") is not None:
        lines += ["", f"Continues before: {printable(data['generation_before'])}"]
        lines.append(f"Continues after:  {printable(data['generation_after'])}")
    return "\n".join(lines)


def verdict_lines(data: dict[str, Any]) -> list[str]:
    """What the graph predicted, what was measured, what random features did, and what that comes to."""
    rival, prediction, control = data["rival"], data["prediction"], data["control"]
    gap = f"{rival['difference_before']:+.2f} → {rival['difference_after']:+.2f}"
    lines = [f"Its logit less that of {quoted(rival['text'])}, the strongest other: {gap}"]
    if prediction is not None:
        lines += ["", f"Predicted by the graph   {prediction['change']:+8.3f}  of its logit, centred"]
        lines.append(f"Measured                 {prediction['measured']:+8.3f}")
    if control is not None and prediction is not None:
        told = "  ".join(f"{change:+.3f}" for change in control["changes"])
        none = printable(control["reason"] or "")
        lines.append(
            f"Random features instead  {told}" if told else f"No random features to compare with: {none}"
        )
        lines.append(f"Needed to confirm        {prediction['threshold']:8.3f}  either way")
    text = printable(data["verdict"]["text"])
    return [*lines, f"Verdict: {text}."]
