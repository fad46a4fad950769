"""Objects of several parts that one polygon joins by lines walked there and back.

A YOLO line holds one polygon, so converters such as Ultralytics' ``merge_multi_segment`` (JSON2YOLO) write the parts of
an object one after the other and join them by a line, which the polygon walks forth and back. It encloses nothing, but
a filled polygon includes its outline, so the line would be drawn as a crack one pixel wide.

A real crack one pixel wide is walked there and back, too. What tells them apart:

- A joining line is a single edge, and at both ends of it there is a part that has an area. A thin crack is a chain of
  edges, or it ends somewhere.
- The outline of a mask, traced along its pixels, has horizontal, vertical and diagonal edges only, and a straight piece
  of crack in it, one pixel wide, has diagonal edges at its ends. The tracing begins at an extreme pixel, the topmost
  and of those the leftmost (or what a flip or a quarter turn makes of it). If that is the end of such a piece, all else
  that meets there is another crack one pixel wide. A converter, however, begins at the corner of a part that has an
  area and at which a joining line ends.
- An outline that was simplified has edges of any slope. A network of thin cracks touches itself in more places than a
  few lines between parts make it do; such an outline is cut only if it begins as a converter writes it.
"""

import numpy as np
from scipy.spatial import KDTree
from skimage.measure import points_in_poly

# Points that are nearer than what the 6 decimals of a usual label file can tell apart are the same.
_PRECISION = 1e-6
# Two triangles, and the ends of the line between them once more.
_FEWEST_POINTS = 8
# How far, in pixels, rounding in a label file may bend an edge.
_STRAIGHT = 0.1


def split_joined_parts(points: np.ndarray, shape: tuple[int, int]) -> list[np.ndarray]:
    """The parts of a polygon that joins several by lines walked there and back.

    A part inside another is a hole by the even-odd rule, and stays joined to it.

    Args:
        points: Shape (n, 2), float64: (x, y) as fractions of width and height.
        shape: (H, W) of the image in pixels.

    Returns:
        Polygons of shape (m, 2), m >= 3; ``[points]`` itself if nothing is joined.
    """
    if len(points) < _FEWEST_POINTS:
        return [points]
    # The usual polygon has no joining line, and the first look at it has to be fast.
    grid = np.rint(points / _PRECISION).astype(np.int64)
    codes = (grid[:, 0] << 31) + grid[:, 1]
    if len(codes) - len(set(codes.tolist())) < 2:
        return [points]
    kept = np.flatnonzero(codes != np.append(codes[1:], codes[0]))  # without points that are repeated at once
    corners, codes = points[kept], codes[kept]
    listed = codes.tolist()
    edges = list(zip(listed, [*listed[1:], listed[0]], strict=True))
    walked = set(edges)
    has_area = {vertex for start, end in edges if (end, start) not in walked for vertex in (start, end)}
    joining = [
        i for i, (start, end) in enumerate(edges) if start in has_area and end in has_area and (end, start) in walked
    ]
    if not joining or not _is_long(np.abs(corners[joining] - np.roll(corners, -1, 0)[joining]) * shape[::-1]).any():
        return [points]
    _, ids = np.unique(codes, return_inverse=True)
    partner = _opposite_edges(ids)
    is_bridge = _joining_lines(corners * shape[::-1], ids, partner)
    parts = _cut(is_bridge, partner)
    # A line out of a part and back into it joins nothing.
    while any(len(np.unique(ids[part])) < 3 for part in parts.values()):
        for edge, part in parts.items():
            if len(np.unique(ids[part])) < 3:
                is_bridge[[edge, partner[edge]]] = False
        parts = _cut(is_bridge, partner)
    if len(parts) > 1:
        # Each line makes two corners occur twice. More of that, and the outline touches itself, as thin cracks do.
        touches = len(ids) - int(ids.max()) - 1 > np.count_nonzero(is_bridge)
        if touches and not _begins_with_shortest_line(corners * shape[::-1], is_bridge, partner, parts):
            return [points]
        parts = _keep_holes(corners, parts, is_bridge, partner)
    return [corners[part] for part in parts.values()] if len(parts) > 1 else [points]


def _opposite_edges(ids: np.ndarray) -> np.ndarray:
    """For each edge, from vertex ``ids[i]`` to the next, the one edge that leads back; -1 if there is not exactly one.

    An edge that is walked more than once has none.
    """
    ends, count = np.roll(ids, -1), int(ids.max()) + 1
    forth, back = ids * count + ends, ends * count + ids
    values, first, repeats = np.unique(forth, return_index=True, return_counts=True)
    own = np.searchsorted(values, forth)
    other = np.searchsorted(values, back).clip(max=len(values) - 1)
    once = (values[other] == back) & (repeats[other] == 1) & (repeats[own] == 1)
    return np.where(once, first[other], -1)


def _joining_lines(pixels: np.ndarray, ids: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """Which edges join parts, shape (n,), bool, of a polygon at (x, y) ``pixels``, shape (n, 2)."""
    ends = np.roll(ids, -1)
    steps = np.abs(np.roll(pixels, -1, axis=0) - pixels)
    dx, dy = steps.T
    is_outline = partner < 0
    has_area = _marked(ids, ends, is_outline)
    joins = ~is_outline & has_area[ids] & has_area[ends] & _is_long(steps)
    if not joins.any():
        return joins
    is_diagonal = np.minimum(dx, dy) > _STRAIGHT
    begins_with_one = bool(joins[-1]) and not _is_spike(pixels, int(partner[-1]))
    sloped = is_outline & is_diagonal
    if sloped.any():
        longest = np.argmax(np.where(sloped, dx + dy, 0))
        slope = dy[longest] / dx[longest]  # of a diagonal step in the mask; not 1 if the image was stretched
        follows_slope = np.abs(dy - slope * dx) <= _STRAIGHT * (1 + slope)
        at_diagonal = _marked(ids, ends, sloped)
        is_traced = follows_slope | (~is_diagonal & at_diagonal[ids] & at_diagonal[ends])
        is_traced &= bool(follows_slope[sloped].all())
    else:
        is_traced = (np.abs(dy - dx) <= 2 * _STRAIGHT) & (not begins_with_one)
    if begins_with_one:
        is_traced[[-1, partner[-1]]] = False
    return joins & ~is_traced


def _is_long(steps: np.ndarray) -> np.ndarray:
    """Which edges, of lengths (x, y) in pixels, have a pixel between their ends; others draw nothing of their own."""
    return steps.max(axis=1) > 1 + _STRAIGHT


def _is_spike(pixels: np.ndarray, leaving: int) -> bool:
    """Whether a polygon leaves its first point, and comes back to point ``leaving``, which is the same, on one line."""
    (x0, y0), (x1, y1) = pixels[1] - pixels[0], pixels[leaving - 1] - pixels[0]
    distance = abs(x0 * y1 - x1 * y0) / max(np.hypot(x0, y0), np.hypot(x1, y1))
    return bool(distance <= _STRAIGHT and x0 * x1 + y0 * y1 > 0)


def _marked(starts: np.ndarray, ends: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Which vertices, by id, the given edges touch."""
    touched = np.zeros(int(starts.max()) + 1, bool)
    touched[starts[edges]] = touched[ends[edges]] = True
    return touched


def _cut(is_bridge: np.ndarray, partner: np.ndarray) -> dict[int, np.ndarray]:
    """Cut a closed walk of edges at its bridges.

    Returns:
        The positions of each part, by an edge that joins it to another (-1 if it is the only one). Bridges that do not
        nest, because other ways lead around them, are not cut.
    """
    bridges = np.flatnonzero(is_bridge).tolist()
    whole = {-1: np.arange(len(is_bridge))}
    if not bridges:
        return whole
    parts: dict[int, list[np.ndarray]] = {}
    # Where the walk has gone over a bridge and not yet come back; the outermost part is known by the first bridge's
    # other direction, which nothing else is.
    crossed = [int(partner[bridges[0]])]
    start = 0
    for bridge in bridges:
        parts.setdefault(crossed[-1], []).append(np.arange(start, bridge + 1))
        start = bridge + 1
        if len(crossed) > 1 and partner[bridge] == crossed[-1]:
            crossed.pop()
        else:
            crossed.append(bridge)
    parts.setdefault(crossed[-1], []).append(np.arange(start, len(is_bridge)))
    return {edge: np.concatenate(pieces) for edge, pieces in parts.items()} if len(crossed) == 1 else whole


def _begins_with_shortest_line(
    pixels: np.ndarray, is_bridge: np.ndarray, partner: np.ndarray, parts: dict[int, np.ndarray]
) -> bool:
    """Whether a polygon at (x, y) ``pixels``, shape (n, 2), begins as ``merge_multi_segment`` writes it.

    Its first point is where the first line ends, and that line is the shortest between the corners of the two parts.
    """
    if not is_bridge[-1]:
        return False
    leaving = int(partner[-1])
    outermost = next(iter(parts.values()))
    distances, _ = KDTree(pixels[parts[leaving]]).query(pixels[outermost])
    return bool(np.linalg.norm(pixels[0] - pixels[-1]) <= distances.min() + _STRAIGHT)


def _keep_holes(
    corners: np.ndarray, parts: dict[int, np.ndarray], is_bridge: np.ndarray, partner: np.ndarray
) -> dict[int, np.ndarray]:
    """Cut only between parts of which none lies in another."""
    polygons = [corners[part] for part in parts.values()]
    group = list(range(len(polygons)))
    for inner, polygon in enumerate(polygons):
        for outer, around in enumerate(polygons):
            if inner != outer and group[inner] != group[outer] and _lies_in(polygon, around):
                group = [group[outer] if number == group[inner] else number for number in group]
    if len(set(group)) == len(group):
        return parts
    group_at = np.empty(len(corners), int)
    for number, part in zip(group, parts.values(), strict=True):
        group_at[part] = number
    merged = _cut(is_bridge & (group_at != np.roll(group_at, -1)), partner)
    # A hole that is joined to its outline only through a part outside cannot be cut off without being filled.
    return merged if len(merged) == len(set(group)) else {-1: np.arange(len(corners))}


def _lies_in(inner: np.ndarray, outer: np.ndarray) -> bool:
    if (inner.min(axis=0) < outer.min(axis=0)).any() or (inner.max(axis=0) > outer.max(axis=0)).any():
        return False
    return bool(points_in_poly(inner, outer).all())
