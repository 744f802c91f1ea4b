// An answer beside the truth: what is saved and lost in figures, both lists with their marks, and the time by stage.

import { bytes, count, el, ms, share } from "./dom.js";
import { rankOf } from "./ladder.js";

const STAGES = [["queue", "queue"], ["encode", "encode the user"], ["scan", "scan"], ["rerank", "rerank"], ["rest", "the rest"]];
const REASONS = {
  time_too_short: "Not even the cheapest rung fits the time that is left, so the cheapest one answered; it may be late.",
  cut_short: "The time was up before the search had ended: this is the best of what was searched until then.",
  overloaded: "The server is busy, so a cheaper rung answered than there was time for.",
  overlap_out_of_reach: "No rung reaches that overlap, so the best one answered.",
};

const searched = ({ timings }) => timings.scan_ms + timings.rerank_ms;

export function drawVerdict(section, service, { answer, truth, overlap, num_kept, cold, num_unknown }) {
  const rungOf = (list) => service.rungs.find((rung) => rung.name === list.rung);
  const [mine, full] = [rungOf(answer), rungOf(truth)];
  const tiles = [
    tile("Kept",
      overlap === null ? "–" : el("span", {}, String(num_kept), el("small", {}, ` of ${truth.items.length}`)),
      overlap === null ? "there was nothing to keep" : `overlap ${share(overlap)}, expected ${share(answer.expected_overlap)}`),
    tile("Width chosen", el("span", {}, count(answer.width), el("small", {}, ` of ${count(truth.width)}`)),
      vector(service, answer.width), `by ${answer.rung}`),
    tile("Search took", ms(searched(answer)), `the full width: ${ms(searched(truth))}`),
    tile("Reads from", mine ? bytes(mine.size_bytes) : "–", full ? `the full width: ${bytes(full.size_bytes)}` : ""),
  ];
  const notes = answer.degraded.map((reason) => REASONS[reason] ?? reason.replaceAll("_", " "));
  if (cold) notes.push("Nothing is known of their past, so this is the answer for a first visit.");
  if (num_unknown) notes.push(`${count(num_unknown)} of the history's items are not in this bundle and were ignored.`);
  if (answer.num_unknown_filter_values) notes.push("Some of the values asked for are those of no item.");
  if (answer.num_scored) notes.push(`${count(answer.num_scored)} items were scored one by one at the full width: this answer is exact, whatever the rung.`);
  if (truth.expected_overlap < 1) notes.push(`The full width's best rung is not exact here: overlap ${share(truth.expected_overlap)} is expected of it.`);
  section.replaceChildren(el("div", { class: "tiles" }, tiles), ...notes.map((note) => el("p", { class: "notice" }, note)));
}

const tile = (name, value, ...below) =>
  el("div", { class: "tile" }, el("h3", {}, name), el("p", { class: "value" }, value),
    ...below.map((each) => (typeof each === "string" ? el("p", { class: "quiet" }, each) : each)));

// The vector as it was trained: a prefix of a prefix of a prefix, filled as far as it was read.
function vector(service, width) {
  const full = service.widths.at(-1);
  return el("div", { class: "vector", "aria-hidden": "true" },
    service.widths.map((each, place) => {
      const size = each - (service.widths[place - 1] ?? 0);
      return el("span", { class: each <= width ? "read" : "", "--size": size / full, "--rank": rankOf(service, each) });
    }));
}

export function drawLists(parent, { answer, truth }, onItem) {
  parent.replaceChildren(
    list("answer", `At this budget`, `width ${count(answer.width)}`, answer, onItem),
    list("truth", "The truth", `full width ${count(truth.width)}`, truth, onItem),
  );
  // Pointing at a kept item shows where it stands in the other list.
  for (const kind of ["pointerover", "focusin"]) parent[`on${kind}`] = (event) => pair(parent, event.target);
  for (const kind of ["pointerout", "focusout"]) parent[`on${kind}`] = () => pair(parent, null);
}

function pair(parent, target) {
  const id = target?.closest?.("li")?.dataset.item;
  for (const row of parent.querySelectorAll("li")) row.classList.toggle("paired", id !== undefined && row.dataset.item === id);
}

function list(kind, name, how, { items }, onItem) {
  const rows = items.map((item) => {
    const said = item.mark !== "kept" ? item.mark
      : item.place === item.other_place ? "kept" : `${kind === "answer" ? "was" : "now"} ${item.other_place}`;
    return el("li", { class: item.mark, "data-item": item.item_id },
      el("span", { class: "place" }, String(item.place)),
      el("button", { type: "button", class: "item", "aria-haspopup": "dialog", title: item.title, onclick: () => onItem(item) }, item.title),
      el("span", { class: "mark" }, el("span", { class: "hidden" }, `${item.mark}, `), said));
  });
  const other = kind === "answer" ? "gained" : "lost";
  const num_other = items.filter((item) => item.mark === other).length;
  return el("div", { class: `list ${kind}` },
    el("h2", {}, name, el("small", {}, ` ${how}`)),
    el("p", { class: "tally" }, el("span", { class: "kept" }, `${items.length - num_other} kept`),
      el("span", { class: other }, `${num_other} ${other}`)),
    items.length ? el("ol", {}, rows) : el("p", { class: "quiet" }, "Nothing may be returned."));
}

export function drawStages(parent, { answer, truth }, budget_ms) {
  const rows = [["this budget", answer], ["full width", truth]].map(([name, list]) => [name, stagesOf(list.timings), list.timings.total_ms]);
  const longest = Math.max(...rows.map(([, , total]) => total), budget_ms ?? 0, 0.001);
  const bars = rows.map(([name, stages, total]) =>
    el("div", { class: "stages" },
      el("span", { class: "name" }, name), el("span", { class: "total" }, ms(total)),
      el("div", { class: "bar", role: "img", "aria-label": `${name}: ${STAGES.map(([key, said]) => `${said} ${ms(stages[key])}`).join(", ")}` },
        STAGES.map(([key]) => el("span", { class: key, "--share": stages[key] / longest })),
        budget_ms === null ? null : el("i", { class: "limit", "--share": budget_ms / longest }))));
  const rowsOf = STAGES.map(([key, said]) => el("tr", {}, el("th", { scope: "row" }, el("span", { class: `swatch ${key}` }), said),
    rows.map(([, stages]) => el("td", {}, ms(stages[key])))));
  parent.replaceChildren(...bars,
    el("table", { class: "stage-table" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Stage"), el("th", { scope: "col" }, "this budget"), el("th", { scope: "col" }, "full width"))),
      el("tbody", {}, rowsOf)),
    el("p", { class: "quiet" }, `When it chose the rung, the server expected to be done within ${ms(answer.predicted_ms)}.`));
}

function stagesOf({ queue_ms, encode_ms, scan_ms, rerank_ms, total_ms }) {
  const rest = Math.max(0, total_ms - queue_ms - encode_ms - scan_ms - rerank_ms);
  return { queue: queue_ms, encode: encode_ms, scan: scan_ms, rerank: rerank_ms, rest };
}
