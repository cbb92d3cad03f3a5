// The panel beside the graph: the model, or the operator that is looked at.
"use strict";

class Details {
  /** Fills `panel`; `page` knows how to select nodes and how to light up tied axes. */
  constructor(panel, model, page) {
    this.panel = panel;
    this.model = model;
    this.page = page;
    this.tiesOf = new Map(); // "name axis": the sets of channels that lie along it
    for (const set of model.ties) {
      for (const [name, axis] of set.axes) {
        const key = `${name} ${axis}`;
        this.tiesOf.set(key, [...(this.tiesOf.get(key) ?? []), set]);
      }
    }
  }

  fill(...content) {
    this.panel.replaceChildren(...content.filter((part) => part !== null));
    this.panel.scrollTop = 0;
  }

  /** What the model is, while nothing is selected. */
  showModel() {
    const { model } = this;
    this.fill(
      element("h2", {}, "Model"),
      element("p", { class: "quiet" }, "Point at an operator or tap it, or go there with the arrow keys."),
      model.ties.length ? element("p", { class: "quiet" }, `${model.ties.length} sets of channels: select an `
        + "operator, then point at an axis with a dotted line to see where else its channels are.") : null,
      this.provenanceSummary(),
      this.operatorTable(),
      this.sentences("Never used by the forward pass", model.untouched.map(
        ([name, reason]) => `${name}${reason ? `: ${reason}` : ""}`,
      )),
      this.sentences("Notes", model.notes),
      model.command ? element("h3", {}, "Make it again") : null,
      model.command ? element("pre", {}, model.command) : null,
    );
  }

  provenanceSummary() {
    const all = Object.values(this.model.provenance ?? {});
    if (!all.length) return null;
    const kept = {};
    for (const { reason } of all) if (reason) kept[reason] = (kept[reason] ?? 0) + 1;
    const predicted = all.filter((one) => one.decoder).length;
    return element("div", { class: "provenance" },
      element("p", {}, dot("all"), `${predicted} of ${all.length} parameters predicted`),
      ...Object.entries(kept).map(([reason, n]) => element("p", {}, dot("none"), `${n} kept: ${reason}`)),
    );
  }

  operatorTable() {
    const counts = new Map(), elements = new Map();
    for (const node of this.model.nodes) counts.set(node.op, (counts.get(node.op) ?? 0) + 1);
    for (const parameter of this.model.parameters) {
      const { op } = parameter.uses[0].node;
      elements.set(op, (elements.get(op) ?? 0) + parameter.count);
    }
    const rows = [...counts].sort((a, b) => b[1] - a[1]).map(([op, count]) =>
      element("tr", {},
        element("td", {}, op),
        element("td", { class: "number" }, count.toLocaleString("en")),
        element("td", { class: "number", "data-value": elements.get(op) ?? 0 },
          elements.has(op) ? short(elements.get(op)) : ""),
      ));
    const table = element("table", { class: "sortable" },
      element("thead", {}, element("tr", {},
        element("th", {}, "operator"), element("th", { class: "number" }, "count"),
        element("th", { class: "number" }, "elements"))),
      element("tbody", {}, ...rows));
    makeSortable(table);
    return table;
  }

  sentences(title, lines) {
    if (!lines.length) return null;
    return element("section", {}, element("h3", {}, title),
      element("ul", {}, ...lines.map((line) => element("li", {}, line))));
  }

  /** An operator. `copies` are the nodes that it is drawn for. */
  showNode(node, copies) {
    const attributes = Object.entries(node.attributes).map(
      ([name, value]) => `${name} ${Array.isArray(value) ? value.join("\u00d7") : value}`,
    );
    this.fill(
      element("h2", { class: `title k${node.kind}` }, element("span", { class: "chip" }), node.op),
      element("p", { class: "quiet" }, node.about),
      this.copyChoice(node, copies),
      node.scope ? element("p", { class: "path" }, element("code", {}, node.scope)) : null,
      attributes.length ? element("p", { class: "attributes" }, attributes.join(", ")) : null,
      ...node.uses.map((use) => this.parameter(node, use)),
      this.neighbours("Reads", node.reads),
      this.neighbours("Read by", node.readBy),
    );
  }

  copyChoice(node, copies) {
    if (copies.length < 2) return null;
    const choice = element("select", {
      id: "copy", change: () => this.showNode(this.model.nodes[Number(choice.value)], copies),
    }, ...copies.map((n, place) => element("option",
      { value: n, selected: n === node.index ? "" : null },
      `${place + 1} of ${copies.length}: ${this.model.nodes[n].scope}`)));
    return element("label", { class: "copies" }, "Copy ", choice);
  }

  parameter(node, { parameter, role }) {
    const facts = [parameter.dtype];
    if (parameter.fan_in) facts.push(`fan-in ${parameter.fan_in.toLocaleString("en")}`);
    if (parameter.groups) facts.push(`${parameter.groups} groups`);
    if (parameter.sections) facts.push(`${parameter.sections} sections`);
    if (parameter.place) facts.push(parameter.place);
    const others = parameter.uses.filter((use) => use.node !== node);
    const aliases = Object.keys(this.model.aliases).filter((a) => this.model.aliases[a] === parameter.name);
    return element("section", { class: "parameter" },
      element("h3", {}, element("code", {}, parameter.name)),
      element("p", {}, element("span", { class: "role", title: this.model.roles[role] ?? "" }, role),
        " ", this.shape(parameter), element("span", { class: "count" },
          ` \u00b7 ${parameter.count.toLocaleString("en")} ${parameter.count === 1 ? "element" : "elements"}`)),
      element("p", { class: "quiet" }, facts.join(" \u00b7 ")),
      aliases.length ? element("p", { class: "quiet" }, `Tied: also called ${aliases.join(", ")}`) : null,
      others.length ? this.neighbours("Used elsewhere by", others.map((use) => use.node.index)) : null,
      this.provenance(parameter),
    );
  }

  /** A shape whose axes can be pointed at: a tied axis lights up its whole set. */
  shape(parameter) {
    const whole = element("span", { class: "axes" });
    parameter.shape.forEach((size, axis) => {
      if (axis) whole.append("\u00d7");
      const sets = this.tiesOf.get(`${parameter.name} ${axis}`);
      const letter = parameter.axes[axis] ?? "";
      whole.append(element(sets ? "button" : "span", {
        class: "axis", "data-axis": `${parameter.name} ${axis}`, title: AXES[letter] ?? "",
        ...(sets && {
          type: "button",
          mouseenter: () => this.page.showTies(sets), mouseleave: () => this.page.showTies([]),
          focus: () => this.page.showTies(sets), blur: () => this.page.showTies([]),
        }),
      }, `${size.toLocaleString("en")}`, element("sub", {}, letter)));
    });
    if (!parameter.shape.length) whole.append("scalar");
    return whole;
  }

  /** Marks the axes of sets among those that are shown; says which others there are. */
  markAxes(sets) {
    const names = new Set(sets.flatMap((set) => set.axes.map(([name, axis]) => `${name} ${axis}`)));
    for (const axis of this.panel.querySelectorAll(".axis")) {
      axis.classList.toggle("tied", names.has(axis.dataset.axis));
    }
    this.panel.querySelector(".tie-list")?.remove();
    if (sets.length) this.panel.append(element("div", { class: "tie-list" }, ...sets.flatMap(describeTie)));
  }

  provenance(parameter) {
    const found = this.model.provenance?.[parameter.name];
    if (!found) return null;
    const plot = drawHistograms(found);
    return element("div", { class: "provenance" },
      found.decoder
        ? element("p", {}, dot("all"), `predicted by the ${found.decoder} decoder`)
        : element("p", {}, dot("none"), `kept: ${found.reason}`),
      plot,
      plot ? element("p", { class: "quiet key" }, ...this.histogramKey(found)) : null);
  }

  histogramKey(found) {
    return ["default", "now"].filter((name) => found[name]).map((name) => {
      const label = name === "now" ? (found.decoder ? "predicted" : "now") : "default";
      return element("span", {}, element("i", { class: `swatch ${name}` }),
        `${label} ${meanAndDeviation(readHistogram(found[name]))}`);
    });
  }

  neighbours(title, indices) {
    if (!indices.length) return null;
    const shown = indices.slice(0, 12);
    return element("p", { class: "neighbours" }, `${title} `, ...shown.map((n) => {
      const node = this.model.nodes[n];
      return element("button", { type: "button", class: "link", click: () => this.page.goTo(n) },
        `${node.op}${node.scope ? ` ${node.scope}` : ""}`);
    }), indices.length > 12 ? `and ${indices.length - 12} more` : null);
  }
}

const AXES = {
  o: "output channels", i: "input channels", k: "kernel", e: "stacked copies", v: "rows of a vocabulary",
  t: "positions", 1: "broadcast",
};

/** A set of channels in words: how many, and every axis that they lie along. */
function describeTie({ size, axes }) {
  const items = axes.map(([name, axis, width]) => element("li", {}, element("code", {}, name),
    ` axis ${axis}${width > 1 ? `, ${width.toLocaleString("en")} places each` : ""}`));
  return [
    element("h3", {}, `${size.toLocaleString("en")} channels along ${axes.length} axes`),
    element("ul", {}, ...items),
  ];
}

const dot = (kind) => element("i", { class: `dot ${kind}` });
