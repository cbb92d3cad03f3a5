// Two distributions over one axis: the model's own initialization, and what it has now.
"use strict";

const PLOT = { width: 300, height: 84, foot: 18 };

/** Reads [low, high, mean, std, heights]. */
function readHistogram([low, high, mean, std, heights]) {
  return { low, high, mean, std, heights };
}

const brief = (x) => (x === 0 ? "0" : Number(x.toPrecision(3)).toString().replace("-", "\u2212"));

/** Mean and deviation, with the digits of the mean that the deviation leaves. */
function meanAndDeviation({ mean, std }) {
  if (!std) return `${brief(mean)} throughout`;
  const digits = Math.min(12, Math.max(0, 2 - Math.floor(Math.log10(std))));
  return `${brief(Number(mean.toFixed(digits)))} \u00b1 ${brief(std)}`;
}

/** Draws one or two histograms, each scaled to its own height. */
function drawHistograms(provenance) {
  const shown = ["default", "now"]
    .filter((name) => provenance[name])
    .map((name) => ({ name, ...readHistogram(provenance[name]) }));
  if (!shown.length) return null;
  let low = Math.min(...shown.map((h) => h.low)), high = Math.max(...shown.map((h) => h.high));
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const toX = (value) => 4 + ((value - low) / (high - low)) * (PLOT.width - 8);
  const words = shown.map((h) => `${h.name}: ${meanAndDeviation(h)}`);
  const plot = svg("svg", {
    class: "histogram", viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img",
    "aria-label": `Distribution of values. ${words.join("; ")}`,
  });
  for (const one of shown) plot.append(outline(one, toX));
  const floor = PLOT.height - PLOT.foot;
  plot.append(svg("line", { class: "axis", x1: 0, x2: PLOT.width, y1: floor, y2: floor }));
  if (low < 0 && high > 0) {
    plot.append(svg("line", { class: "zero", x1: toX(0), x2: toX(0), y1: 0, y2: floor }));
    if (toX(0) > 60 && toX(0) < PLOT.width - 60) {
      plot.append(svg("text", { x: toX(0), y: PLOT.height - 4, "text-anchor": "middle" }, "0"));
    }
  }
  plot.append(
    svg("text", { x: 2, y: PLOT.height - 4 }, brief(low)),
    svg("text", { x: PLOT.width - 2, y: PLOT.height - 4, "text-anchor": "end" }, brief(high)),
  );
  return plot;
}

/** The outline of one histogram; a single value is a needle. */
function outline(histogram, toX) {
  const floor = PLOT.height - PLOT.foot, top = 4;
  const { low, high, heights } = histogram;
  const wide = Math.max(toX(high) - toX(low), 3);
  const left = toX(high) - toX(low) < 3 ? (toX(low) + toX(high)) / 2 - 1.5 : toX(low);
  const step = wide / heights.length;
  let path = `M${round(left)} ${floor}`;
  heights.forEach((height, bin) => {
    path += `V${round(floor - (height / 255) * (floor - top))}H${round(left + (bin + 1) * step)}`;
  });
  return svg("path", { class: `values ${histogram.name}`, d: `${path}V${floor}Z` });
}
