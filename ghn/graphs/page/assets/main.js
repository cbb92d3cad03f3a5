// The page as a whole: what is selected, what is found, and what keys and buttons do.
"use strict";

const FIRST_DRAWING = 450; // operators; larger graphs begin with their outer blocks closed

class Page {
  constructor(model) {
    const byId = (id) => document.getElementById(id);
    this.model = model;
    this.folding = new Folding(model);
    if (model.unfolded) this.folding.unfoldAll();
    else this.folding.closeUntil(FIRST_DRAWING);
    this.canvas = byId("canvas");
    this.view = new View(this.canvas, byId("graph"), byId("map"));
    this.details = new Details(byId("panel"), model, this);
    this.selected = null;
    this.matches = [];
    this.nextMatch = 0;
    this.describe(byId("summary"), byId("legend"));
    this.redraw();
    this.view.begin();
    this.details.showModel();
    this.listen(byId);
  }

  describe(summary, legend) {
    const { nodes, parameters, kinds } = this.model;
    const elements = parameters.reduce((sum, p) => sum + p.count, 0);
    summary.textContent = `${nodes.length.toLocaleString("en")} operators, `
      + `${parameters.length.toLocaleString("en")} parameters of ${short(elements)} elements`;
    const present = new Set(nodes.map((node) => node.kind));
    legend.append(...kinds.flatMap((kind, place) => (present.has(place)
      ? [element("li", { class: `k${place}` }, element("span", { class: "chip" }), kind)] : [])));
    if (this.model.provenance) {
      legend.append(element("li", {}, dot("all"), "predicted"), element("li", {}, dot("some"), "in part"),
        element("li", {}, dot("none"), "kept"));
    }
  }

  /** Lays the graph out anew; `anchor` is a node that stays where it is on the screen. */
  redraw(anchor = null) {
    const before = anchor === null ? null : this.rows?.get(this.folding.drawnFor(anchor)) ?? null;
    const root = layOut(this.model, this.folding);
    const { group, rows, edges } = draw(this.model, this.folding, root);
    this.rows = rows;
    this.edges = edges;
    const after = before && rows.get(this.folding.drawnFor(anchor));
    if (before && after) this.view.hold(before, after);
    const cards = new Map([...rows.values()].map((row) => [`${row.x} ${row.y}`,
      { x: row.x, y: row.y, width: CARD_WIDTH, height: row.height }]));
    this.view.show(group, root, [...cards.values()]);
    const runs = this.folding.runs();
    const button = document.getElementById("unfold");
    button.hidden = !runs.length && !this.folding.closed.size;
    button.textContent = this.isUnfolded() ? "Fold all" : "Unfold all";
    this.mark();
  }

  isUnfolded() {
    return !this.folding.closed.size && this.folding.runs().every((run) => this.folding.unfolded.has(run));
  }

  toggleAll() {
    const anchor = this.selected;
    if (this.isUnfolded()) this.folding.foldAll();
    else this.folding.unfoldAll();
    this.redraw(anchor);
    if (anchor === null) this.view.begin();
  }

  /** Folds, unfolds, closes or opens a block. */
  act(action, block) {
    if (action === "run") this.folding.toggleRun(block);
    else if (!this.folding.closed.delete(block)) this.folding.closed.add(block);
    this.redraw(this.folding.isHidden(block) ? block.original.first : block.first);
  }

  // What is looked at.

  copiesOf(index) {
    if (this.folding.closedAround(index)) return [index];
    const drawn = this.folding.drawnFor(index);
    return this.model.nodes.filter((n) => this.folding.drawnFor(n.index) === drawn).map((n) => n.index);
  }

  look(index) {
    if (index === null) this.details.showModel();
    else this.details.showNode(this.model.nodes[index], this.copiesOf(index));
    this.light(index);
  }

  /** Lights up an operator's edges. */
  light(index) {
    const drawn = index === null ? null : this.folding.drawnFor(index);
    for (const { line, pairs } of this.edges) {
      line.classList.toggle("reads", pairs.some(([, to]) => to === drawn));
      line.classList.toggle("written", pairs.some(([from]) => from === drawn));
    }
  }

  select(index) {
    this.selected = index;
    document.body.classList.toggle("selecting", index !== null);
    this.mark();
    this.look(index);
  }

  /** Selects a node and brings it into view, unfolded if it has to be. */
  goTo(index) {
    const { folding } = this;
    if (folding.drawnFor(index) !== index || folding.closedAround(index)) {
      folding.reveal(index);
      this.redraw();
    }
    this.select(index);
    this.view.bring(this.rows.get(index));
  }

  showFromList(index) {
    this.toggleList();
    this.goTo(index);
  }

  /** Lights up the operators whose parameters have an axis in one of these sets of channels. */
  showTies(sets) {
    const names = new Set(sets.flatMap((set) => set.axes.map(([name]) => name)));
    const uses = this.model.parameters.filter((p) => names.has(p.name)).flatMap((p) => p.uses);
    const tied = new Set(uses.map((use) => this.folding.drawnFor(use.node.index)));
    for (const [index, row] of this.rows) row.group.classList.toggle("tied", tied.has(index));
    this.details.markAxes(sets);
  }

  // Search.

  search(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (node) => {
      const names = [node.op, node.scope, ...node.uses.map((use) => use.parameter.name)];
      const all = names.join(" ").toLowerCase();
      return words.every((word) => all.includes(word));
    };
    this.matches = words.length ? this.model.nodes.filter(fits).map((node) => node.index) : [];
    this.nextMatch = 0;
    this.isSearching = words.length > 0;
    const found = document.getElementById("found");
    found.textContent = this.isSearching ? `${this.matches.length.toLocaleString("en")} found` : "";
    this.mark();
  }

  goToMatch(step) {
    if (!this.matches.length) return;
    const { length } = this.matches;
    this.nextMatch = (this.nextMatch + length) % length;
    document.getElementById("found").textContent = `${this.nextMatch + 1} of ${length}`;
    this.goTo(this.matches[this.nextMatch]);
    this.nextMatch += step;
  }

  /** Shows what is selected and what was found. */
  mark() {
    const hits = new Set(this.matches.map((index) => this.folding.drawnFor(index)));
    this.canvas.classList.toggle("searching", Boolean(this.isSearching));
    const selected = this.selected === null ? null : this.folding.drawnFor(this.selected);
    for (const [index, row] of this.rows) {
      if (!row.group.dataset.node) continue;
      row.group.classList.toggle("hit", hits.has(index));
      row.group.classList.toggle("selected", index === selected);
    }
    for (const box of this.canvas.querySelectorAll(".closed")) {
      const block = this.model.blocks[Number(box.dataset.block)];
      const inside = (index) => index >= block.first && index <= block.last;
      box.classList.toggle("hit", [...hits].some(inside));
    }
    this.light(this.selected);
  }

  toggleList() {
    const list = document.getElementById("list");
    const button = document.getElementById("view");
    const opens = list.hidden;
    if (opens && !list.firstChild) list.append(parameterTable(this.model, this));
    list.hidden = !opens;
    this.canvas.hidden = opens;
    button.setAttribute("aria-pressed", opens);
  }

  // Keys, pointers, buttons.

  listen(byId) {
    byId("unfold").addEventListener("click", () => this.toggleAll());
    byId("view").addEventListener("click", () => this.toggleList());
    byId("help").addEventListener("click", () => byId("keys").showModal());
    byId("zoom-in").addEventListener("click", () => this.view.zoom(1.3));
    byId("zoom-out").addEventListener("click", () => this.view.zoom(1 / 1.3));
    byId("zoom-fit").addEventListener("click", () => this.view.fit());
    const search = byId("search");
    search.addEventListener("input", () => this.search(search.value));
    search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.goToMatch(event.shiftKey ? -1 : 1);
      if (event.key !== "Escape") return;
      search.value = "";
      this.search("");
      this.canvas.focus();
    });
    this.canvas.addEventListener("click", (event) => this.click(event));
    this.canvas.addEventListener("pointerover", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => this.selected === null && this.look(null));
    document.addEventListener("keydown", (event) => this.key(event));
  }

  nodeAt(event) {
    const row = event.target.closest?.("[data-node]");
    return row ? Number(row.dataset.node) : null;
  }

  hover(event) {
    const index = this.nodeAt(event);
    if (this.selected === null && index !== null && !this.view.pointers.size) this.look(index);
  }

  click(event) {
    if (this.view.dragged) return;
    const button = event.target.closest("[data-action]");
    if (button?.dataset.block) this.act(button.dataset.action, this.model.blocks[Number(button.dataset.block)]);
    else if (event.target.closest("#graph")) this.select(this.nodeAt(event));
  }

  key(event) {
    if (event.target.matches("input, select, textarea") || document.getElementById("keys").open) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const button = event.target.closest?.("[data-block]");
    if (button && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      this.press(button);
      return;
    }
    const actions = this.keyActions();
    if (!Object.hasOwn(actions, event.key) || (event.key === "Enter" && event.target.matches("button"))) return;
    event.preventDefault();
    actions[event.key]();
  }

  /** Acts on a block's button, and keeps the keyboard at it. */
  press(button) {
    const { action, block } = button.dataset;
    this.act(action, this.model.blocks[Number(block)]);
    this.canvas.querySelector(`[data-action="${action}"][data-block="${block}"]`)?.focus();
  }

  keyActions() {
    return {
      "/": () => document.getElementById("search").focus(),
      "?": () => document.getElementById("keys").showModal(),
      "+": () => this.view.zoom(1.3),
      "=": () => this.view.zoom(1.3),
      "-": () => this.view.zoom(1 / 1.3),
      0: () => this.view.fit(),
      u: () => this.toggleAll(),
      p: () => this.toggleList(),
      d: switchTheme,
      Escape: () => this.select(null),
      Enter: () => this.toggleAround(),
      ArrowDown: () => this.step((node) => this.drawn(node.readBy)[0]),
      ArrowUp: () => this.step((node) => this.drawn(node.reads)[0]),
      ArrowRight: () => this.step((node) => this.beside(node.index, 1)),
      ArrowLeft: () => this.step((node) => this.beside(node.index, -1)),
    };
  }

  drawn(indices) {
    return indices.map((index) => this.folding.drawnFor(index));
  }

  beside(index, step) {
    const order = [...this.rows.keys()].sort((a, b) => a - b);
    return order[order.indexOf(index) + step];
  }

  step(next) {
    const first = [...this.rows.keys()].sort((a, b) => a - b)[0];
    const from = this.selected === null ? null : this.folding.drawnFor(this.selected);
    const index = from === null ? first : next(this.model.nodes[from]);
    if (index === undefined) return;
    this.select(index);
    this.view.bring(this.rows.get(index));
  }

  toggleAround() {
    if (this.selected === null) return;
    const around = blocksAround(this.model.nodes[this.selected]);
    const block = around.findLast((one) => one.original.copies.length > 1) ?? around.at(-1);
    if (block) this.act(block.original.copies.length > 1 ? "run" : "close", block);
  }
}

const page = new Page(readModel(pageData()));
document.documentElement.dataset.ready = Math.round(performance.now());
