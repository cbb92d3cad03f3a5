// From a layout to SVG: frames of blocks, edges, cards with a row an operator.
"use strict";

const SVG = "http://www.w3.org/2000/svg"; // the name of a vocabulary, fetched by nobody
const FONTS = { op: "600 12.5px", where: "12px", shape: "11.5px" };
const measured = new Map();
const pen = document.createElement("canvas").getContext("2d");

function svg(tag, attributes, ...content) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...content);
  return made;
}

/** Width of a text in pixels, in the fonts of page.css. */
function widthOf(text, style) {
  const key = `${style} ${text}`;
  if (!measured.has(key)) {
    const family = style === "shape" ? "--mono" : "--sans";
    pen.font = `${FONTS[style]} ${getComputedStyle(document.documentElement).getPropertyValue(family)}`;
    measured.set(key, pen.measureText(text).width);
  }
  return measured.get(key);
}

/** Cuts the beginning off a name until it fits; its end says more. */
function fit(text, room, style) {
  if (widthOf(text, style) <= room) return text;
  let low = 0, high = text.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (widthOf("\u2026" + text.slice(middle), style) <= room) high = middle;
    else low = middle + 1;
  }
  return low >= text.length ? "" : "\u2026" + text.slice(low);
}

/** Draws a layout. Returns the group, and what was drawn for each node. */
function draw(model, folding, root) {
  const scene = { model, folding, rows: new Map(), edges: [] };
  const group = drawContainer(scene, root, 0, 0);
  return { group, rows: scene.rows, edges: scene.edges };
}

function drawContainer(scene, container, x, y) {
  const group = svg("g", { class: "inside" });
  const [frames, lines, cards] = [svg("g", {}), svg("g", {}), svg("g", {})];
  for (const item of container.items.values()) {
    const [left, top] = [x + item.x, y + item.y];
    if (item.kind === "block") {
      frames.append(drawFrame(scene, item, left, top));
      frames.append(drawContainer(scene, item, left, top));
    } else if (item.kind === "card") cards.append(drawCard(scene, container, item, left, top));
    else if (item.kind === "closed") cards.append(drawClosed(scene, item, left, top));
  }
  for (const link of container.links.values()) {
    const isEnd = ["card", "closed"].includes(container.items.get(link.b).kind);
    const line = svg("path", {
      d: curve(link.points, x, y),
      class: `edge${isEnd ? " end" : ""}${link.loose ? " loose" : ""}`,
    });
    lines.append(line);
    scene.edges.push({ line, pairs: link.edges });
  }
  if (container.block !== null) cards.append(drawHead(scene, container, x, y));
  group.append(frames, lines, cards);
  return group;
}

/** A line that is upright at every point of its way. */
function curve(points, x, y) {
  const [first, ...rest] = points;
  let path = `M${round(x + first.x)} ${round(y + first.y)}`;
  let before = first;
  for (const point of rest) {
    const middle = round(y + (before.y + point.y) / 2);
    path += before.x === point.x
      ? `V${round(y + point.y)}`
      : `C${round(x + before.x)} ${middle} ${round(x + point.x)} ${middle} `
        + `${round(x + point.x)} ${round(y + point.y)}`;
    before = point;
  }
  return path;
}

const round = (number) => Math.round(number * 10) / 10;

function drawFrame(scene, item, x, y) {
  return svg("rect", {
    class: `frame depth${item.block.depth % 2}`, x: round(x), y: round(y),
    width: round(item.width), height: round(item.height), rx: 10,
  });
}

/** The line on top of a block: its name, which closes it, and its number, which unfolds it. */
function drawHead(scene, container, x, y) {
  const { block } = container;
  const { copies } = block.original;
  const isRun = copies.length > 1;
  const folded = isRun && !scene.folding.unfolded.has(block.original);
  const head = svg("g", { class: "head", transform: `translate(${round(x)} ${round(y)})` });
  if (isRun) {
    const text = folded ? `\u00d7 ${copies.length}` : `${copies.indexOf(block) + 1} of ${copies.length}`;
    const label = folded ? `${runName(block)}: unfold ${copies.length} copies` : `${block.scope}: fold its copies`;
    head.append(headButton("run", block, text, container.width - 8, label, "end"));
  }
  const name = fit(innerName(folded ? runName(block) : block.scope, block.parent), container.width - 120, "where");
  head.append(headButton("close", block, `\u25be ${name}`, 8, `${block.scope}: close`, "start"));
  return head;
}

function headButton(action, block, text, x, label, anchor) {
  const width = widthOf(text, "op") + 16;
  const left = anchor === "end" ? x - width : x - 6;
  return svg(
    "g",
    { class: `button ${action}`, role: "button", tabindex: 0, "aria-label": label,
      "data-action": action, "data-block": block.index },
    svg("title", {}, label),
    svg("rect", { x: round(left), y: 5, width: round(width), height: 20, rx: 10 }),
    svg("text", { x: round(left + 8), y: 19 }, text),
  );
}

/** A block as one box: its name, how many operators and parameters it has. */
function drawClosed(scene, item, x, y) {
  const { block } = item;
  const operators = block.last - block.first + 1;
  const { copies } = block.original;
  const folded = copies.length > 1 && !scene.folding.unfolded.has(block.original);
  const name = innerName(folded ? runName(block) : block.scope, block.parent);
  const times = folded ? ` \u00d7 ${copies.length}` : "";
  const about = `${operators} operators, ${short(elementsOf(scene.model, block))} elements${times}`;
  const box = svg(
    "g",
    { class: "closed button", role: "button", tabindex: 0, "aria-label": `${name}: open, ${about}`,
      "data-action": "close", "data-block": block.index,
      transform: `translate(${round(x)} ${round(y)})` },
    svg("rect", { width: item.width, height: item.height, rx: 9 }),
    svg("text", { class: "op", x: 12, y: 19 }, fit(`\u25b8 ${name}`, item.width - 20, "op")),
    svg("text", { class: "where", x: 12, y: 36 }, about),
  );
  for (let n = block.first; n <= block.last; n++) {
    if (scene.folding.drawnFor(n) === n) scene.rows.set(n, { group: box, x, y, height: item.height });
  }
  return box;
}

function drawCard(scene, container, card, x, y) {
  const group = svg("g", { class: "card", transform: `translate(${round(x)} ${round(y)})` });
  group.append(svg("rect", { class: "back", width: CARD_WIDTH, height: card.height, rx: 7 }));
  card.rows.forEach((index, place) => {
    const row = drawRow(scene, container, scene.model.nodes[index], place * ROW);
    group.append(row);
    scene.rows.set(index, { group: row, x, y: y + place * ROW, height: ROW });
  });
  return group;
}

function drawRow(scene, container, node, y) {
  const main = node.uses.reduce(
    (best, use) => (use.parameter.shape.length > (best?.shape.length ?? 0) ? use.parameter : best), null,
  );
  const shape = main ? withSign(main.shape) : "";
  const mark = provenanceMark(scene.model, node);
  const end = CARD_WIDTH - 10 - (mark ? 14 : 0);
  const room = end - 26 - widthOf(node.op, "op") - (shape ? widthOf(shape, "shape") + 10 : 0);
  const name = fit(innerName(node.scope, container.block), room, "where");
  const row = svg(
    "g",
    { class: `row k${node.kind}`, "data-node": node.index, transform: `translate(0 ${y})` },
    svg("rect", { class: "face", x: 1.5, y: 1, width: CARD_WIDTH - 3, height: ROW - 2, rx: 5 }),
    svg("rect", { class: "stripe", x: 1.5, y: 1, width: 5, height: ROW - 2, rx: 2.5 }),
    svg("text", { class: "op", x: 14, y: 16.5 }, node.op),
  );
  if (name) {
    row.append(svg("text", { class: "where", x: round(22 + widthOf(node.op, "op")), y: 16.5 }, name));
  }
  if (shape) row.append(svg("text", { class: "shape", x: end, y: 16.5 }, shape));
  if (mark) {
    row.append(svg("circle", { class: `mark ${mark}`, cx: CARD_WIDTH - 13, cy: ROW / 2, r: 4 }));
  }
  return row;
}

/** A module's path inside the block it is drawn in; of a bare number's, the whole. */
function innerName(scope, block) {
  if (!block || !scope.startsWith(`${block.scope}.`)) return scope === block?.scope ? "" : scope;
  const inner = scope.slice(block.scope.length + 1);
  return /^[\d\u2026 ]+$/.test(inner) ? scope : inner;
}

/** Whether a node's parameters were predicted: `all`, `some` or `none`; empty if not known. */
function provenanceMark(model, node) {
  if (!model.provenance || !node.uses.length) return "";
  const predicted = node.uses.filter((use) => model.provenance[use.parameter.name]?.decoder);
  if (!predicted.length) return "none";
  return predicted.length === node.uses.length ? "all" : "some";
}
