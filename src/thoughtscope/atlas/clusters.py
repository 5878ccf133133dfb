"""`hdbscan`: groups of points that lie densely, of any shape, and points that are in none.

Campello, Moulavi and Sander 2013: mutual reachability, its minimum spanning tree, the tree condensed to clusters of a
least size, and of those the ones of most excess of mass. Distances are those to the `near` nearest neighbours: what
no chain of these connects is never one cluster.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import cKDTree


def hdbscan(
    points: Float[np.ndarray, "point dim"], *, min_cluster_size: int = 3, near: int = 15
) -> Int[np.ndarray, " point"]:
    """The cluster of each point, from 0 by size, the largest first; -1 for points that are in none.

    A point's core distance is that to its `min_cluster_size`-th nearest, itself counted.
    """
    n = len(points)
    if n < 2 * min_cluster_size:
        return np.full(n, -1, np.int32)
    merges = _merges(points, min_cluster_size, min(near, n - 1))
    parent, child, size, density = _condensed(merges, n, min_cluster_size)
    chosen = _chosen(parent, child, size, density, n)
    return _by_size(_members(parent, child, chosen, n))


def _merges(points: Float[np.ndarray, "point dim"], least: int, near: int) -> Float[np.ndarray, "merge 3"]:
    """Edges of the spanning forest as (one, other, distance), the shortest first, and what joins its trees, at ∞."""
    distance, index = cKDTree(points).query(points, k=near + 1)
    core = distance[:, min(least, near + 1) - 1]
    row = np.repeat(np.arange(len(points)), near)
    column, length = index[:, 1:].ravel(), distance[:, 1:].ravel()
    reach = np.maximum(np.maximum(length, core[row]), core[column])
    reach = np.maximum(reach, 1e-9)  # 0 would be no edge
    graph = sparse.csr_array((reach, (row, column)), shape=(len(points),) * 2)
    tree = minimum_spanning_tree(graph.maximum(graph.T)).tocoo()
    edges = np.stack([tree.row, tree.col, tree.data], axis=1)
    edges = edges[np.argsort(edges[:, 2], kind="stable")]
    _, label = sparse.csgraph.connected_components(tree, directed=False)
    firsts = np.unique(label, return_index=True)[1]
    joins = np.stack([firsts[:-1], firsts[1:], np.full(len(firsts) - 1, np.inf)], axis=1)
    return np.concatenate([edges, joins])


def _linked(
    merges: Float[np.ndarray, "merge 3"], n: int
) -> tuple[list[int], list[int], list[float], list[int]]:
    """The dendrogram: node n + i joins `left[i]` and `right[i]` at `distance[i]`; sizes of all nodes."""
    top = list(range(2 * n - 1))
    size = [1] * n
    left, right, distance = [], [], []

    def root(node: int) -> int:
        while top[node] != node:
            top[node] = top[top[node]]
            node = top[node]
        return node

    for number, (one, other, length) in enumerate(merges.tolist()):
        a, b = root(int(one)), root(int(other))
        top[a] = top[b] = n + number
        left.append(a)
        right.append(b)
        distance.append(length)
        size.append(size[a] + size[b])
    return left, right, distance, size


def _condensed(
    merges: Float[np.ndarray, "merge 3"], n: int, least: int
) -> tuple[
    Int[np.ndarray, " row"], Int[np.ndarray, " row"], Int[np.ndarray, " row"], Float[np.ndarray, " row"]
]:
    """Rows (cluster, what leaves it, its size, 1 / distance at which it leaves): points and clusters of `least`.

    Clusters are numbered from n; a split into two of `least` points makes two clusters, any other one sheds points.
    """
    left, right, distance, size = _linked(merges, n)
    rows: list[tuple[int, int, int, float]] = []
    fresh = n + 1
    stack = [(n + len(merges) - 1, n)]
    while stack:
        node, cluster = stack.pop()
        if node < n:
            continue
        sides = (left[node - n], right[node - n])
        density = 1 / distance[node - n]
        large = [side for side in sides if size[side] >= least]
        for side in sides:
            if size[side] < least:
                rows.extend((cluster, point, 1, density) for point in _points(side, left, right, n))
            elif len(large) == 1:
                stack.append((side, cluster))
            else:
                rows.append((cluster, fresh, size[side], density))
                stack.append((side, fresh))
                fresh += 1
    parent, child, sizes, densities = zip(*rows, strict=True)
    return np.array(parent), np.array(child), np.array(sizes), np.array(densities)


def _points(node: int, left: list[int], right: list[int], n: int) -> list[int]:
    found, stack = [], [node]
    while stack:
        here = stack.pop()
        if here < n:
            found.append(here)
        else:
            stack += [left[here - n], right[here - n]]
    return found


def _chosen(
    parent: Int[np.ndarray, " row"],
    child: Int[np.ndarray, " row"],
    size: Int[np.ndarray, " row"],
    density: Float[np.ndarray, " row"],
    n: int,
) -> set[int]:
    """Clusters of most excess of mass: a cluster in place of what it splits into, if it is as stable as they are.

    The root, which is everything, is none.
    """
    count = int(parent.max()) - n + 1
    born = np.zeros(count)
    is_cluster = child >= n
    born[child[is_cluster] - n] = density[is_cluster]
    excess = (np.minimum(density, 1e12) - born[parent - n]) * size
    stable = np.bincount(parent - n, excess, minlength=count)
    inside: dict[int, list[int]] = {}
    for one, other in zip(parent[is_cluster].tolist(), child[is_cluster].tolist(), strict=True):
        inside.setdefault(one, []).append(other)
    chosen = set(range(n + 1, n + count))
    for cluster in range(n + count - 1, n, -1):
        below = inside.get(cluster, [])
        if below and (mass := sum(stable[each - n] for each in below)) > stable[cluster - n]:
            stable[cluster - n] = mass
            chosen.discard(cluster)
        elif below:
            stack = list(below)
            while stack:
                each = stack.pop()
                chosen.discard(each)
                stack += inside.get(each, [])
    return chosen


def _members(
    parent: Int[np.ndarray, " row"], child: Int[np.ndarray, " row"], chosen: set[int], n: int
) -> Int[np.ndarray, " point"]:
    """The chosen cluster that each point falls out of, or out of a part of it."""
    clusters = child >= n
    above = dict(zip(child[clusters].tolist(), parent[clusters].tolist(), strict=True))
    owner = {n: -1}
    for cluster in sorted(above):  # a part has a higher number than the whole
        owner[cluster] = cluster if cluster in chosen else owner[above[cluster]]
    label = np.full(n, -1)
    label[child[~clusters]] = [owner[each] for each in parent[~clusters].tolist()]
    return label


def _by_size(label: Int[np.ndarray, " point"]) -> Int[np.ndarray, " point"]:
    """Clusters numbered from 0, the largest first."""
    names, inverse, counts = np.unique(label, return_inverse=True, return_counts=True)
    counts[names < 0] = -1
    rank = np.empty(len(names), np.int32)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(names))
    rank[names < 0] = -1
    return rank[inverse]
