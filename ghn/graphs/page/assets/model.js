// The graph as objects, and what of it is visible: which runs are folded, which blocks closed.
"use strict";

/** Reads the page's data into nodes, blocks and parameters that know each other. */
function readModel(data) {
  const parameters = data.parameters.map((p) => ({
    ...p, count: p.shape.reduce((a, b) => a * b, 1), uses: [],
  }));
  const nodes = data.nodes.map(([operator, scope, attributes, uses], index) => {
    const [op, kind, about] = data.operators[operator];
    const node = { index, op, kind, about, scope, attributes, reads: [], readBy: [], block: null };
    node.uses = uses.map(([parameter, role]) => ({ parameter: parameters[parameter], role }));
    for (const use of node.uses) use.parameter.uses.push({ node, role: use.role });
    return node;
  });
  for (const [from, to] of data.edges) {
    nodes[from].readBy.push(to);
    nodes[to].reads.push(from);
  }
  const blocks = data.blocks.map(([scope, first, last], index) => ({
    index, scope, first, last, parent: null, original: null, copies: [], depth: 0,
  }));
  data.blocks.forEach(([, , , parent, repeats], index) => {
    const block = blocks[index];
    if (parent !== null) block.parent = blocks[parent];
    block.depth = block.parent ? block.parent.depth + 1 : 1;
    block.original = repeats === null ? block : blocks[repeats];
    block.original.copies.push(block);
    for (let n = block.first; n <= block.last; n++) nodes[n].block = block; // inner ones come later
  });
  return { ...data, nodes, blocks, parameters };
}

/** Blocks around a node, outermost first. */
function blocksAround(node) {
  const around = [];
  for (let block = node.block; block; block = block.parent) around.unshift(block);
  return around;
}

function elementsOf(model, block) {
  const counted = new Set();
  for (let n = block.first; n <= block.last; n++) {
    for (const use of model.nodes[n].uses) counted.add(use.parameter);
  }
  return [...counted].reduce((sum, parameter) => sum + parameter.count, 0);
}

/** What is folded: `unfolded` has the first blocks of runs, `closed` blocks drawn as one box. */
class Folding {
  constructor(model) {
    this.model = model;
    this.unfolded = new Set();
    this.closed = new Set();
  }

  /** Whether a block is a copy that its run's first one stands for. */
  isHidden(block) {
    return block.original !== block && !this.unfolded.has(block.original);
  }

  /** The node that is drawn for this one: itself, or its counterpart in the first of a run. */
  drawnFor(index) {
    const hidden = blocksAround(this.model.nodes[index]).find((block) => this.isHidden(block));
    if (!hidden) return index;
    return this.drawnFor(hidden.original.first + index - hidden.first);
  }

  /** The outermost closed block around a node, if there is one. */
  closedAround(index) {
    return blocksAround(this.model.nodes[index]).find((block) => this.closed.has(block)) ?? null;
  }

  /** Unfolds and opens whatever keeps a node from being drawn as itself. */
  reveal(index) {
    for (const block of blocksAround(this.model.nodes[index])) {
      if (this.isHidden(block)) this.unfolded.add(block.original);
      this.closed.delete(block);
    }
  }

  toggleRun(block) {
    const run = block.original;
    const turns = this.turnsOf(run);
    const open = !this.unfolded.has(run);
    for (const one of turns) open ? this.unfolded.add(one) : this.unfolded.delete(one);
  }

  /** First blocks that take turns in one run: they fold and unfold together. */
  turnsOf(run) {
    const second = run.copies[1];
    if (!second) return [run];
    return this.model.blocks.filter(
      (b) => b.original === b && b.parent === run.parent && b.copies.length === run.copies.length
        && b.first < second.first && b.copies[1].first > run.first
        && Math.abs(b.first - run.first) < second.first - run.first,
    );
  }

  runs() {
    return this.model.blocks.filter((b) => b.original === b && b.copies.length > 1);
  }

  unfoldAll() {
    this.closed.clear();
    for (const run of this.runs()) this.unfolded.add(run);
  }

  foldAll() {
    this.unfolded.clear();
    this.closed.clear();
  }

  /** Closes outer blocks until a drawing of at most `limit` operators is left, if that helps. */
  closeUntil(limit) {
    const drawn = (node) => this.drawnFor(node.index) === node.index;
    const visible = this.model.nodes.filter(drawn).length;
    if (visible <= limit) return;
    for (const block of this.model.blocks) {
      if (block.depth === 1 && block.last - block.first >= 8) this.closed.add(block);
    }
  }
}

/** Words under a number: 7,087,872 or 7.1 M. */
function short(count) {
  if (count >= 1e9) return `${(count / 1e9).toFixed(count < 1e10 ? 1 : 0)} B`;
  if (count >= 1e6) return `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} M`;
  if (count >= 1e4) return `${(count / 1e3).toFixed(0)} k`;
  return count.toLocaleString("en");
}

const withSign = (shape) => (shape.length ? shape.join("\u00d7") : "scalar");

/** The name that a run is shown under: `blocks.0 … 11`. */
function runName(block) {
  const last = block.copies[block.copies.length - 1];
  return `${block.scope} \u2026 ${last.scope.match(/\d+$/)[0]}`;
}
