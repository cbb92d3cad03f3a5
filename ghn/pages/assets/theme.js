// What all pages share: their data, light and dark, tables that sort.
"use strict";

/** Returns the data that the page was made with. */
function pageData() {
  return JSON.parse(document.getElementById("data").textContent);
}

/** Makes an HTML element: attributes by name, functions as listeners, then its content. */
function element(tag, attributes = {}, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...content.filter((part) => part !== null));
  return made;
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Goes from light to dark or back; until then the page follows the system. */
function switchTheme() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  document.dispatchEvent(new Event("themechange"));
}

/** Value of a cell to sort by: `data-value` if it has one, else its text. */
function sortKey(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number(text);
  return text !== "" && !Number.isNaN(number) ? number : text;
}

/** Numbers come before words, and words in the order that people count in. */
function compareKeys(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b, undefined, { numeric: true });
}

function sortTable(table, column) {
  const heads = table.tHead.rows[0].cells;
  const isUp = heads[column].getAttribute("aria-sort") === "ascending";
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", isUp ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows];
  const keys = new Map(rows.map((row) => [row, sortKey(row, column)]));
  rows.sort((a, b) => (isUp ? -1 : 1) * compareKeys(keys.get(a), keys.get(b)));
  table.tBodies[0].append(...rows);
}

/** Turns the headings of a table into buttons. */
function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const label = head.textContent;
    head.replaceChildren(
      element("button", { type: "button", click: () => sortTable(table, column) }, label),
    );
  });
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("[data-action='theme']").forEach((button) => {
  button.addEventListener("click", switchTheme);
});
