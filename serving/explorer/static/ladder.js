// The measured ladder: what each rung costs and how close it comes, on one small chart, and as a table.

import { bytes, count, el, ms, share, svg } from "./dom.js";

const WIDTH = 380, HEIGHT = 230;
const LEFT = 40, RIGHT = 12, TOP = 14, BOTTOM = 34;

// The overlap at the smallest measured k that is at least k, as the server reads it.
export function overlapAt(rung, k) {
  const known = Object.keys(rung.overlaps).map(Number).sort((a, b) => a - b);
  return rung.overlaps[known.find((each) => each >= k) ?? known.at(-1)];
}

export function drawLadder(figure, service, { k, chosen, truth, left_ms, floor }) {
  const rungs = service.rungs.map((rung) => ({ ...rung, overlap: overlapAt(rung, k) }));
  const places = axes(rungs, floor);
  const chart = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": `Overlap at ${k} against p99 latency of ${rungs.length} rungs; ${chosen} is chosen. The table has the figures.`,
  });
  chart.append(...grid(places), ...limits(places, left_ms, floor));
  const steps = rungs.filter((rung) => rung.on_ladder).map((rung) => `${places.x(rung.p99_ms)},${places.y(rung.overlap)}`);
  chart.append(svg("polyline", { class: "climb", points: steps.join(" ") }));
  // The chosen one last, so that nothing covers it.
  rungs.sort((a, b) => (a.name === chosen) - (b.name === chosen));
  for (const rung of rungs) chart.append(dot(places, service, rung, { chosen, truth }));
  figure.replaceChildren(chart, legend(service), table(service, rungs, k, chosen));
}

function axes(rungs, floor) {
  const times = rungs.map((rung) => rung.p99_ms);
  const low = Math.log(Math.min(...times) * 0.8), high = Math.log(Math.max(...times) * 1.25);
  const least = Math.min(...rungs.map((rung) => rung.overlap), floor ?? 1);
  // Some room below, and never so little above that two rungs of one overlap look apart.
  const bottom = Math.max(0, Math.min(0.98, Math.floor((least - 0.001) * 50) / 50));
  return {
    low: Math.exp(low), high: Math.exp(high), bottom,
    x: (time) => LEFT + ((Math.log(time) - low) / (high - low)) * (WIDTH - LEFT - RIGHT),
    y: (overlap) => TOP + ((1 - overlap) / (1 - bottom)) * (HEIGHT - TOP - BOTTOM),
  };
}

function grid({ low, high, bottom, x, y }) {
  const parts = [];
  for (let step = 0; step <= 4; step++) {
    const overlap = bottom + ((1 - bottom) * step) / 4;
    parts.push(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(overlap), y2: y(overlap) }));
    parts.push(svg("text", { x: LEFT - 6, y: y(overlap) + 4, "text-anchor": "end" }, overlap.toFixed(2)));
  }
  const within = (firsts) => [-3, -2, -1, 0, 1, 2, 3, 4].flatMap((power) => firsts.map((first) => first * 10 ** power))
    .filter((time) => time >= low && time <= high);
  const ticks = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8]].map(within).findLast((each) => each.length <= 6) ?? [];
  ticks.forEach((time) => {
    parts.push(svg("line", { class: "grid", x1: x(time), x2: x(time), y1: TOP, y2: HEIGHT - BOTTOM }));
    parts.push(svg("text", { x: x(time), y: HEIGHT - BOTTOM + 14, "text-anchor": "middle" }, String(+time.toPrecision(2))));
  });
  parts.push(svg("text", { class: "axis", x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, "p99 of a search, ms"));
  parts.push(svg("text", { class: "axis", x: 2, y: HEIGHT - 4 }, "overlap ↑"));
  return parts;
}

// What a budget rules out: everything right of the time that is left for the search, or below the floor.
function limits({ low, high, bottom, x, y }, left_ms, floor) {
  const parts = [];
  if (left_ms !== null) {
    const edge = x(Math.min(high, Math.max(low, left_ms)));
    parts.push(svg("rect", { class: "out", x: edge, y: TOP, width: WIDTH - RIGHT - edge, height: HEIGHT - TOP - BOTTOM }));
    parts.push(svg("line", { class: "limit", x1: edge, x2: edge, y1: TOP, y2: HEIGHT - BOTTOM }));
  }
  if (floor !== null && floor > bottom) {
    parts.push(svg("rect", { class: "out", x: LEFT, y: y(floor), width: WIDTH - RIGHT - LEFT, height: HEIGHT - BOTTOM - y(floor) }));
    parts.push(svg("line", { class: "limit", x1: LEFT, x2: WIDTH - RIGHT, y1: y(floor), y2: y(floor) }));
  }
  return parts;
}

export const rankOf = (service, width) =>
  service.widths.length > 1 ? service.widths.indexOf(width) / (service.widths.length - 1) : 1;

function dot({ x, y }, service, rung, { chosen, truth }) {
  const classes = ["rung", rung.on_ladder ? "on" : "off", rung.name === chosen && "chosen", rung.name === truth && "truth"];
  const said = `${rung.name}: overlap ${share(rung.overlap)}, p99 ${ms(rung.p99_ms)}, ${bytes(rung.size_bytes)}`;
  const [cx, cy] = [x(rung.p99_ms), y(rung.overlap)];
  return svg("g", { class: classes.filter(Boolean).join(" "), "--rank": rankOf(service, rung.width), "data-rung": rung.name },
    svg("title", {}, said),
    rung.name === chosen ? svg("circle", { class: "ring", cx, cy, r: 10 }) : null,
    svg("circle", { class: "dot", cx, cy, r: 5 }));
}

function legend(service) {
  return el("figcaption", {},
    el("span", { class: "legend" }, "Width",
      service.widths.map((width) => el("span", { class: "swatch", "--rank": rankOf(service, width) }, count(width)))),
    el("span", { class: "legend" }, el("span", { class: "sign chosen-sign" }), "chosen"),
    el("span", { class: "legend" }, el("span", { class: "sign off-sign" }), "only when asked for by width or overlap"),
    el("span", {}, "As measured when it was published; the server goes by what it measures now."));
}

function table(service, rungs, k, chosen) {
  const rows = [...rungs].sort((a, b) => a.p99_ms - b.p99_ms).map((rung) =>
    el("tr", { "aria-current": rung.name === chosen ? "true" : null },
      el("th", { scope: "row" }, rung.name), el("td", {}, count(rung.width)), el("td", {}, share(rung.overlap)),
      el("td", {}, ms(rung.p99_ms)), el("td", {}, bytes(rung.size_bytes))));
  const heads = ["Rung", "Width", `Overlap@${k}`, "p99", "Reads from"].map((head) => el("th", { scope: "col" }, head));
  const was = document.querySelector("#ladder details")?.open;
  return el("details", { open: was }, el("summary", {}, `All ${rungs.length} rungs as a table`),
    el("div", { class: "scrolled", tabindex: "0", role: "region", "aria-label": "Rungs" },
      el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows))));
}
