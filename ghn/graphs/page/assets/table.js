// The list of all parameters: the same facts for those who would rather read than look.
"use strict";

/** Makes the table of parameters; a name leads to its operator in the graph. */
function parameterTable(model, page) {
  const known = Boolean(model.provenance);
  const columns = ["parameter", "role", "operator", "shape", "elements"];
  if (known) columns.push("values");
  const heads = columns.map((text) => element("th", { class: text === "elements" ? "number" : null }, text));
  const rows = model.parameters.map((parameter) => {
    const { node, role } = parameter.uses[0];
    const found = model.provenance?.[parameter.name];
    return element("tr", {},
      element("td", {}, element("button",
        { type: "button", class: "link", click: () => page.showFromList(node.index) }, parameter.name)),
      element("td", {}, role),
      element("td", {}, node.op),
      element("td", {}, element("code", {}, withSign(parameter.shape))),
      element("td", { class: "number", "data-value": parameter.count }, parameter.count.toLocaleString("en")),
      known ? element("td", {}, found?.decoder ? `predicted, ${found.decoder}` : `kept, ${found?.reason ?? ""}`) : null);
  });
  for (const [name, reason] of model.untouched) {
    const last = known ? element("td", {}, `kept, ${model.provenance[name]?.reason ?? ""}`) : null;
    rows.push(element("tr", {}, element("td", {}, name), element("td", {}, "untouched"),
      element("td", { colspan: 3 }, reason), last));
  }
  const table = element("table", {},
    element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  makeSortable(table);
  return element("div", { class: "scroll" }, table);
}
