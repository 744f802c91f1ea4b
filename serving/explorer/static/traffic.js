// What the server does now, read every few seconds while somebody looks.

import { ask } from "./api.js";
import { byId, count, el, ms } from "./dom.js";
import { rankOf } from "./ladder.js";

const EVERY_MS = 2000;

export function watchTraffic(service) {
  byId("traffic-card").hidden = false;
  const look = async () => {
    if (!document.hidden) {
      try {
        draw(service, await ask("traffic"));
      } catch (error) {
        byId("traffic").replaceChildren(el("p", { class: "quiet" }, error.message));
      }
    }
    setTimeout(look, EVERY_MS);
  };
  look();
}

function draw(service, { window_s, calls_per_s, widths, p50_ms, p99_ms, in_time_share }) {
  if (!window_s) return;
  const rate = (codes) => codes.reduce((sum, code) => sum + calls_per_s[code], 0);
  const codes = Object.keys(calls_per_s);
  const failed = rate(codes.filter((code) => code !== "OK"));
  const figures = [
    ["answers", `${rate(codes.filter((code) => code === "OK")).toFixed(1)} / s`],
    ["failed", `${failed.toFixed(1)} / s`],
    ["p50", p50_ms === null ? "–" : ms(p50_ms)],
    ["p99", p99_ms === null ? "–" : ms(p99_ms)],
    ["in time", in_time_share === null ? "–" : `${Math.round(100 * in_time_share)}%`],
  ];
  const total = Object.values(widths).reduce((sum, number) => sum + number, 0);
  byId("traffic").replaceChildren(
    el("dl", { class: "figures" }, figures.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    el("h3", {}, "Widths chosen"),
    ...service.widths.map((width) => {
      const number = widths[width] ?? 0;
      return el("div", { class: "chosen-width" }, el("span", { class: "name" }, count(width)),
        el("div", { class: "bar", "aria-hidden": "true" }, el("span", { "--rank": rankOf(service, width), "--share": total ? number / total : 0 })),
        el("span", { class: "total" }, count(number)));
    }),
    el("p", { class: "quiet" }, `In the last ${Math.round(window_s)} s, this page's own questions (two for each answer) among them.`));
}
