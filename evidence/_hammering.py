"""Writers that are killed, and what is left of what they were told was kept: the loops of `nothing_lost`.

Writers are forked from a process that has imported everything, so that they can be killed and started anew many times.
Each change has a number that grows; once the function that makes it has returned, the writer appends the number to a
log. What is on disk at the end must be that number, or a later one that nobody lived to acknowledge.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

PROCESSES, THREADS = 2, 4
PER_LIFE = 10_000
"""Numbers that one life of a writer may use."""
TOKEN = "a-token-of-this-measurement"
Acknowledge = Callable[[str, str, Any], None]
Verb = Callable[[int], None]


# --- processes -------------------------------------------------------------------------------------------------------


def fork(work: Callable[[], None]) -> int:
    """Runs `work` in a child, which ends when its parent does; its process id."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    try:
        work()
    except BaseException as error:
        print(f"a writer ended: {error!r}", file=sys.stderr)
    finally:
        os._exit(0)


def end_with(parent: int) -> NoReturn:
    """Ends this process as soon as its parent is another one than that."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def kill(child: int) -> None:
    """Ends a child at once, wherever it is, and waits until it is gone."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def acknowledger(log: Path) -> Acknowledge:
    """Appends one line per acknowledgement, in one write, so that lines of several processes do not mix."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def acknowledge(store: str, key: str, value: Any) -> None:
        os.write(descriptor, (json.dumps([store, key, value]) + "\n").encode())

    return acknowledge


def acknowledged(log: Path) -> list[tuple[str, str, Any]]:
    """What was acknowledged, in order. The last line of a killed writer may be half of one."""
    found = []
    for line in log.read_text().splitlines() if log.exists() else ():
        try:
            store, key, value = json.loads(line)
        except ValueError:
            continue
        found.append((store, key, value))
    return found


@contextmanager
def no_lock() -> Iterator[None]:
    """The control: every store as it is, but nobody waits for anybody."""
    from thoughtscope.core import labels, store
    from thoughtscope.microscope import folder

    homes: list[Any] = [labels, store, folder]
    before = [home.exclusive for home in homes]
    for home in homes:
        home.exclusive = lambda *_, **__: nullcontext()
    try:
        yield
    finally:
        for home, exclusive in zip(homes, before, strict=True):
            home.exclusive = exclusive


# --- writers of a work folder ----------------------------------------------------------------------------------------


def graph_file() -> dict[str, Any]:
    """A small graph with more features than a number has bits."""
    from tests.random_graphs import random_graph
    from thoughtscope.reports.payload import graph_file

    return graph_file(random_graph(n_layers=3, length=2, per_place=5, density=0.3), "some")


def features(file: dict[str, Any]) -> list[str]:
    """The ids of its features, in the order of the file."""
    return [node["node_id"] for node in file["nodes"] if node["feature_type"] == "cross layer transcoder"]


def as_pins(nodes: list[str], number: int) -> list[str]:
    """A number as pinned nodes: those of its binary digits that are 1."""
    return [node for bit, node in enumerate(nodes) if number >> bit & 1]


def as_number(nodes: list[str], pins: list[str]) -> int:
    """The number that `as_pins` wrote."""
    return sum(1 << nodes.index(pin) for pin in pins)


def prepare(root: Path) -> None:
    """A graph of its own for every writer, and one for every two of them."""
    from thoughtscope.microscope import WorkFolder

    work, file = WorkFolder(root), graph_file()
    slots = range((PROCESSES + 1) * THREADS)
    for slug in [*(f"own-{slot}" for slot in slots), *(f"common-{pair}" for pair in range(THREADS))]:
        work.write_graph(slug, {**file, "metadata": {**file["metadata"], "slug": slug}})


def verbs_of(root: Path, slot: int, acknowledge: Acknowledge) -> list[Verb]:
    """What a writer does to the folder, by the functions that the server calls."""
    from thoughtscope import microscope

    work, file = microscope.WorkFolder(root), graph_file()
    nodes, own, common = features(file), f"own-{slot}", f"common-{slot % THREADS}"

    def upload(number: int) -> None:
        metadata = {**file["metadata"], "slug": f"wanted-{number % 2}", "prompt": f"{slot}:{number}"}
        slug = microscope.keep_file(work, {**file, "metadata": metadata})
        acknowledge("graphs", slug, f"{slot}:{number}")

    def label(number: int) -> None:
        name = f"some/dictionary/{number % 3}/{slot}"
        work.labels.set(name, str(number))
        acknowledge("labels", name, number)

    def pins(number: int) -> None:
        microscope.pin(work, own, as_pins(nodes, number))
        acknowledge("pins", own, number)

    def groups(number: int) -> None:
        microscope.arrange(work, own, [[str(number), nodes[0]]])
        acknowledge("groups", own, number)

    def half_of_a_common_graph(number: int) -> None:
        if slot < THREADS:
            microscope.pin(work, common, as_pins(nodes, number))
            acknowledge("pins", common, number)
        else:
            microscope.arrange(work, common, [[str(number), nodes[0]]])
            acknowledge("groups", common, number)

    def title(number: int) -> None:
        work.rename(own, str(number))
        acknowledge("titles", own, number)

    def layout(number: int) -> None:
        microscope.lay_out(work, own, {nodes[0]: [number, 0]})
        acknowledge("layouts", own, number)

    def outcome(number: int) -> None:
        slug = own if number % 2 else common
        kept = work.keep_outcome(slug, {"by": f"{slot}:{number}"})
        acknowledge("outcomes", f"{slug}/{kept}", f"{slot}:{number}")

    def away_and_back(number: int) -> None:
        work.remove(own)
        work.restore(own)

    back(work, own)
    return [upload, label, pins, groups, half_of_a_common_graph, title, layout, outcome, away_and_back]


def back(work: Any, slug: str) -> None:
    """Takes a graph out of the trash, if a writer died between putting it there and taking it out again."""
    from thoughtscope.core.errors import ThoughtscopeError

    try:
        work.restore(slug)
    except ThoughtscopeError:
        return


def verbs_over_http(ports: list[int], slot: int, acknowledge: Acknowledge) -> list[Verb]:
    """The same through whichever of the servers; a broken connection acknowledges nothing."""
    file, own = graph_file(), f"own-{slot}"
    nodes = features(file)

    def ask(number: int, method: str, path: str, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", ports[number % len(ports)], timeout=120)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
            connection.request(method, path, json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"{answer.status}: {text[:300]!r}")
        return json.loads(text)

    def upload(number: int) -> None:
        metadata = {**file["metadata"], "slug": f"wanted-{number % 2}", "prompt": f"{slot}:{number}"}
        slug = ask(number, "POST", "/api/graphs", {**file, "metadata": metadata})["slug"]
        acknowledge("graphs", slug, f"{slot}:{number}")

    def pins(number: int) -> None:
        ask(number, "PUT", f"/api/graphs/{own}/pins", {"pins": as_pins(nodes, number)})
        acknowledge("pins", own, number)

    def groups(number: int) -> None:
        ask(number, "PUT", f"/api/graphs/{own}/supernodes", {"supernodes": [[str(number), nodes[0]]]})
        acknowledge("groups", own, number)

    def title(number: int) -> None:
        ask(number, "PATCH", f"/api/graphs/{own}", {"title": str(number)})
        acknowledge("titles", own, number)

    return [upload, pins, groups, title]


def over_http(key: str, value: Any) -> bool:
    """Whether one of the servers' clients was told so."""
    slot = value.partition(":")[0] if isinstance(value, str) else key.removeprefix("own-")
    return slot.isdecimal() and int(slot) >= PROCESSES * THREADS


def write(verbs: list[Verb], seed: int, life: int, acknowledge: Acknowledge) -> None:
    """Calls one verb after the other, with a higher number each time, until it is killed."""
    draw = random.Random(f"{seed} {life}")
    for number in range(life * PER_LIFE + 1, (life + 1) * PER_LIFE):
        verb = draw.choice(verbs)
        try:
            verb(number)
        except (OSError, http.client.HTTPException):
            time.sleep(0.01)  # the server was killed
        except Exception as error:
            acknowledge("refused", verb.__name__, repr(error))


def write_in_threads(
    verbs: Callable[[int], list[Verb]], process: int, life: int, acknowledge: Acknowledge
) -> None:
    """One life of one process of writers."""
    slots = range(process * THREADS, (process + 1) * THREADS)
    work = [threading.Thread(target=write, args=(verbs(slot), slot, life, acknowledge)) for slot in slots]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()


def serve(root: Path, listener: socket.socket) -> NoReturn:
    """A server for the folder, without a model."""
    import uvicorn

    from thoughtscope.microscope import WorkFolder
    from thoughtscope.server import Session, create_app
    from thoughtscope.server.access import Access

    app = create_app(Session(None, folder=WorkFolder(root)), Access(token=TOKEN))
    uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none")).run(sockets=[listener])
    raise SystemExit


def race(root: Path, log: Path, *, enough: int, seed: int, servers: bool = False) -> int:
    """Writers (and servers with their clients) on one folder, killed at random, until so much is acknowledged.

    Returns how often one was killed.
    """
    draw, acknowledge = random.Random(seed), acknowledger(log)
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2 if servers else 0)]
    ports = [listener.getsockname()[1] for listener in listeners]
    works: list[Callable[[int], None]] = [
        lambda life, p=process: write_in_threads(
            lambda slot: verbs_of(root, slot, acknowledge), p, life, acknowledge
        )
        for process in range(PROCESSES)
    ]
    works += [lambda _, one=listener: serve(root, one) for listener in listeners]

    def ask() -> None:
        write_in_threads(lambda slot: verbs_over_http(ports, slot, acknowledge), PROCESSES, 0, acknowledge)

    prepare(root)
    asking = fork(ask) if servers else None
    alive = [fork(lambda w=work: w(0)) for work in works]
    life, count = 0, 0
    while count < enough:
        time.sleep(draw.uniform(0.1, 0.8))
        one = draw.randrange(len(works))
        kill(alive[one])
        life += 1
        alive[one] = fork(lambda w=works[one], n=life: w(n))
        count = sum(store != "refused" for store, _, _ in acknowledged(log))
        print(f"\r{count:,} acknowledged, {life} kills ", end="", file=sys.stderr, flush=True)
    for child in [*alive, *([asking] if asking else [])]:
        kill(child)
    for listener in listeners:
        listener.close()
    print(file=sys.stderr)
    return life


# --- what is left ----------------------------------------------------------------------------------------------------


def missing(root: Path, log: Path) -> dict[str, list[str]]:
    """By store, what was acknowledged and is not there."""
    from thoughtscope.microscope import WorkFolder

    work, nodes = WorkFolder(root), features(graph_file())
    labels = work.labels.all()
    for slot in range(PROCESSES * THREADS):
        back(work, f"own-{slot}")
    latest: dict[tuple[str, str], Any] = {}
    for store, key, value in acknowledged(log):
        old = latest.get((store, key))
        # A number replaces a lower one; of names that two got, both stay to be looked for.
        if isinstance(value, int):
            latest[store, key] = max(value, old or 0)
        else:
            latest.setdefault((store, key), []).append(value)

    def found(store: str, key: str) -> Any:
        if store == "labels":
            return int(labels.get(key, 0))
        if store == "outcomes":
            slug, _, number = key.partition("/")
            return dict(work.outcomes(slug)).get(int(number), {}).get("by")
        graph = work.read_graph(key)
        query = graph["qParams"]
        if store == "graphs":
            return graph["metadata"]["prompt"]
        if store == "pins":
            return as_number(nodes, query.get("pinnedIds", []))
        if store == "groups":
            return int((query.get("supernodes") or [["0"]])[0][0])
        if store == "layouts":
            return int(query.get("layout", {}).get(nodes[0], [0])[0])
        return int(graph["metadata"].get("title", 0))

    lost: dict[str, list[str]] = {}
    for (store, key), value in latest.items():
        if store == "refused":
            continue
        try:
            there = found(store, key)
        except Exception as error:
            there = repr(error)
        values = value if isinstance(value, list) else [value]
        gone = [one for one in values if not (there >= one if isinstance(there, int) else there == one)]
        lost.setdefault(store, []).extend(f"{key}: {one}, and there is {there}" for one in gone)
    return lost
