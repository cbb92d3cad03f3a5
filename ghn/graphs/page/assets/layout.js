// Where everything goes. Every block is laid out by dagre for itself, then placed as one box in
// what surrounds it; edges enter a block at its top and leave it at its bottom, through ports.
// Operators in a straight chain are rows of one card.
"use strict";

const ROW = 24, CARD_WIDTH = 276, CLOSED_HEIGHT = 46;
const RANK_GAP = 26, HEAD = 34, ENTRY = 22, SIDE = 14, FOOT = 12;
const CORNER = 16; // how close to a card's corner an edge may end
const MANY_SOURCES = 6; // sources of a block that get ports of their own; more share one
const SPAN_BUDGET = 800; // summed lengths, in layers, of the edges that dagre routes in one block

/** Lays out what is visible. Returns the outermost container; see `place`. */
function layOut(model, folding) {
  const root = buildContainers(model, folding);
  place(root);
  return root;
}

/** A container is a block, or the whole graph, with what lies in it: items and links. */
function newContainer(block) {
  return { kind: "block", block, items: new Map(), links: new Map(), sources: new Map() };
}

function buildContainers(model, folding) {
  const root = newContainer(null);
  const containers = new Map([[null, root]]);
  const homes = new Map(); // drawn node: its container, and the item that it is in
  const containerOf = (block) => {
    if (containers.has(block)) return containers.get(block);
    const outer = containerOf(block.parent);
    const made = folding.closed.has(block) ? { kind: "closed", block } : newContainer(block);
    made.id = `b${block.index}`;
    made.outer = outer;
    outer.items.set(made.id, made);
    containers.set(block, made);
    return made;
  };
  for (const node of model.nodes) {
    if (folding.drawnFor(node.index) !== node.index) continue;
    homes.set(node.index, containerOf(folding.closedAround(node.index) ?? node.block));
  }
  const edges = drawnEdges(model, folding);
  makeCards(model, homes, edges);
  for (const [from, to] of edges) connect(homes, from, to);
  return root;
}

/** Edges between drawn nodes; one that would point back into a folded run is left out. */
function drawnEdges(model, folding) {
  const drawn = model.nodes.map((node) => folding.drawnFor(node.index));
  const seen = new Set();
  const edges = [];
  for (const node of model.nodes) {
    for (const to of node.readBy) {
      const [u, v] = [drawn[node.index], drawn[to]];
      const key = u * model.nodes.length + v;
      if (u >= v || seen.has(key)) continue;
      seen.add(key);
      edges.push([u, v]);
    }
  }
  return edges;
}

/** Puts nodes on cards: a node joins the card of the one it reads if neither has another way. */
function makeCards(model, homes, edges) {
  const reads = new Map(), readBy = new Map();
  const count = (map, key) => map.set(key, (map.get(key) ?? 0) + 1);
  const source = new Map();
  for (const [u, v] of edges) {
    count(reads, v);
    count(readBy, u);
    source.set(v, u);
  }
  const cards = new Map();
  for (const [index, home] of homes) {
    if (home.kind === "closed") continue;
    const before = source.get(index);
    const joins = reads.get(index) === 1 && readBy.get(before) === 1
      && homes.get(before) === home && model.nodes[before].op !== "input"
      && model.nodes[index].op !== "output";
    const card = joins ? cards.get(before) : { kind: "card", id: `n${index}`, rows: [] };
    card.rows.push(index);
    cards.set(index, card);
    home.items.set(card.id, card);
  }
  for (const [index, card] of cards) homes.set(index, { ...wrap(homes.get(index)), card });
  for (const [index, home] of homes) if (!home.container) homes.set(index, wrap(home));
}

const wrap = (container) => ({ container, card: null });

/** The containers around a node from the outermost in, and at last the card or closed block. */
function pathTo(home) {
  const path = [];
  let at = home.container;
  if (home.card) path.push(home.card);
  for (; at; at = at.outer) path.unshift(at);
  return path;
}

/** Links two nodes in every container that the edge passes through. */
function connect(homes, from, to) {
  const left = pathTo(homes.get(from)), right = pathTo(homes.get(to));
  let shared = 0;
  while (left[shared] === right[shared] && shared < left.length) shared++;
  if (shared === left.length || shared === right.length) return; // both in one card or box
  addLink(left[shared - 1], left[shared].id, right[shared].id, from, to);
  for (let k = shared; k < left.length - 1; k++) {
    addLink(left[k], left[k + 1].id, addPort(left[k], "out", from).id, from, to);
  }
  for (let k = shared; k < right.length - 1; k++) {
    addLink(right[k], addPort(right[k], "in", from).id, right[k + 1].id, from, to);
  }
}

function addLink(container, a, b, from, to) {
  const key = `${a} ${b} ${a.startsWith("b") || b.startsWith("b") ? from : ""}`;
  const link = container.links.get(key) ?? { key, a, b, source: from, edges: [] };
  link.edges.push([from, to]);
  container.links.set(key, link);
}

/** The place where edges from one node cross a block's border. */
function addPort(container, side, from) {
  const known = container.sources;
  const name = `${side} ${from}`;
  if (known.has(name)) return known.get(name);
  const own = [...known.values()].filter((port) => port.side === side);
  const port = own.length >= MANY_SOURCES
    ? own[own.length - 1]
    : { kind: "port", id: `p${side}${own.length}`, side };
  known.set(name, port);
  container.items.set(port.id, port);
  return port;
}

/** Gives a container its size, and places to all in it, relative to its top left corner. */
function place(container) {
  for (const item of container.items.values()) {
    if (item.kind === "block") place(item);
    else Object.assign(item, sizeOf(item));
  }
  const links = [...container.links.values()];
  const loose = looseLinks(container, links);
  const graph = runDagre(container, links.filter((link) => !loose.has(link)));
  const { top, side, foot } = margins(container);
  for (const [id, item] of container.items) {
    const at = graph.node(id);
    item.x = at.x - item.width / 2 + side;
    item.y = at.y - item.height / 2 + top;
  }
  const size = graph.graph();
  container.width = size.width + 2 * side;
  container.height = size.height + top + foot;
  for (const link of links) {
    const way = loose.has(link) ? [] : graph.edge({ v: link.a, w: link.b, name: link.key }).points;
    link.loose = loose.has(link);
    link.points = trim(container, link, way.map((p) => ({ x: p.x + side, y: p.y + top })));
  }
}

/** Room around what is in a container; the way from a port to the first layer is room already. */
function margins(container) {
  if (container.block === null) return { top: 0, side: 0, foot: 0 };
  const sides = new Set([...container.items.values()].map((item) => item.side));
  return {
    top: sides.has("in") ? ENTRY : HEAD, side: SIDE, foot: sides.has("out") ? 0 : FOOT,
  };
}

function sizeOf(item) {
  if (item.kind === "card") return { width: CARD_WIDTH, height: ROW * item.rows.length };
  if (item.kind === "closed") return { width: CARD_WIDTH, height: CLOSED_HEIGHT };
  return { width: 8, height: 1 };
}

function runDagre(container, links) {
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  const big = container.items.size > 150;
  graph.setGraph({
    rankdir: "TB", ranksep: RANK_GAP, nodesep: 22, edgesep: 14,
    ranker: big ? "longest-path" : "network-simplex",
  });
  for (const [id, item] of container.items) {
    graph.setNode(id, { width: item.width, height: item.height });
  }
  for (const link of links) graph.setEdge(link.a, link.b, { weight: 1 }, link.key);
  pinPorts(graph, container);
  dagre.layout(graph);
  return graph;
}

/** Holds several entries at the top and several exits at the bottom. */
function pinPorts(graph, container) {
  const ports = [...container.items.values()].filter((item) => item.kind === "port");
  for (const side of ["in", "out"]) {
    const own = ports.filter((port) => port.side === side);
    if (own.length < 2) continue;
    const anchor = `anchor ${side}`;
    graph.setNode(anchor, { width: 1, height: 1 });
    for (const port of own) {
      const [v, w] = side === "in" ? [anchor, port.id] : [port.id, anchor];
      graph.setEdge(v, w, { weight: 50 }, anchor);
    }
  }
}

/** The longest links of a container whose links are, together, too long to be routed. */
function looseLinks(container, links) {
  const layer = new Map([...container.items.keys()].map((id) => [id, 0]));
  const sorted = [...links].sort((p, q) => p.source - q.source);
  for (const { a, b } of sorted) layer.set(b, Math.max(layer.get(b), layer.get(a) + 1));
  const span = (link) => layer.get(link.b) - layer.get(link.a);
  let budget = SPAN_BUDGET;
  const loose = new Set();
  for (const link of [...links].sort((p, q) => span(p) - span(q))) {
    budget -= span(link);
    if (budget < 0) loose.add(link);
  }
  return loose;
}

/** Lets a link begin and end where it is straightest; at a port or a block its place is given. */
function trim(container, link, way) {
  const start = container.items.get(link.a), end = container.items.get(link.b);
  const isEntry = start.kind === "port";
  const top = isEntry ? ENTRY : start.y + start.height;
  const bottom = end.kind === "port" ? container.height : end.y;
  const isShort = way.length <= 3; // to the next layer: dagre's middle is not needed
  const inner = isShort ? [] : way.slice(1, -1).filter((p) => p.y > top && p.y < bottom);
  const [from, to] = [reach(start, "out", link.source), reach(end, "in", link.source)];
  const last = clamp(inner.at(-1)?.x ?? from.middle, to);
  const first = clamp(inner[0]?.x ?? last, from);
  const begin = isEntry ? [{ x: first, y: 0 }] : []; // straight down beside the block's name
  return [...begin, { x: first, y: top }, ...inner, { x: last, y: bottom }];
}

/** Where on an item's border the edges from a node can leave or enter: from `low` to `high`. */
function reach(item, side, source) {
  const port = item.kind === "block" ? item.sources.get(`${side} ${source}`) : null;
  const middle = item.x + (port ? port.x + port.width / 2 : item.width / 2);
  if (port || item.kind === "port") return { low: middle, high: middle, middle };
  return { low: item.x + CORNER, high: item.x + item.width - CORNER, middle };
}

const clamp = (x, { low, high }) => Math.min(high, Math.max(low, x));
