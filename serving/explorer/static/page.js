// The page: who is asked for, at what budget, and what comes of it. Its state is in its address, so that it can be sent on.

import { drawLists, drawStages, drawVerdict } from "./answer.js";
import { ask, latest } from "./api.js";
import { combobox } from "./combobox.js";
import { byId, count, el, ms, share } from "./dom.js";
import { drawLadder, overlapAt } from "./ladder.js";
import { watchTraffic } from "./traffic.js";

const STEPS = 100;
const NUM_VALUES = 50;
const KS = [5, 10, 20, 50, 100];
const RETRY_MS = 3000;

const state = { id: "", items: [], who: "user", kind: "budget_ms", amounts: {}, k: 10, only: [] };
let service;
let retry;
const recommend = latest("recommend");
const similar = latest("similar");
const findUsers = latest("users");
const findItems = latest("items");

// --- The budget: one slider for three kinds of it, between ends that the measured ladder suggests.

const KINDS = {
  budget_ms: {
    label: "Milliseconds on the server",
    // The slider goes evenly over the chart: what is left for the search, on top of what a call takes anyway.
    ends: () => {
      const times = service.rungs.map((rung) => rung.p99_ms);
      return [Math.min(...times) / 2, 2 * Math.max(...times, service.search_ms)];
    },
    at: (part, [low, high]) => +(service.base_ms + low * (high / low) ** part).toPrecision(3),
    part: (amount, [low, high]) => Math.log(Math.max(low, amount - service.base_ms) / low) / Math.log(high / low),
    shown: ms,
    note: "From the call's arrival to its answer. The server takes the closest rung that fits what is left of it.",
  },
  width: {
    label: "Embedding width",
    ends: () => [0, service.widths.length - 1],
    at: (part, [, last]) => service.widths[Math.round(part * last)],
    part: (amount, [, last]) => (last ? service.widths.indexOf(amount) / last : 1),
    shown: (width) => `${count(width)} of ${count(service.widths.at(-1))}`,
    note: "The best rung of that width answers, whatever it costs; it may rerank at the full width.",
  },
  min_overlap: {
    label: "Least expected overlap",
    ends: () => [Math.max(0.01, Math.floor(100 * Math.min(...service.rungs.map((rung) => overlapAt(rung, state.k)))) / 100), 1],
    at: (part, [low, high]) => +(low + (high - low) * part).toFixed(3),
    part: (amount, [low, high]) => (amount - low) / (high - low || 1),
    shown: share,
    note: "The cheapest rung that is expected to keep this share of the truth answers.",
  },
};

function showBudget() {
  const kind = KINDS[state.kind];
  const slider = byId("amount");
  slider.step = state.kind === "width" ? STEPS / Math.max(1, service.widths.length - 1) : 1;
  const ends = kind.ends();
  state.amounts[state.kind] ??= kind.at(state.kind === "budget_ms" ? 0.5 : 0, ends);
  slider.value = Math.round(STEPS * Math.min(1, Math.max(0, kind.part(state.amounts[state.kind], ends))) * 1000) / 1000;
  byId("amount-label").textContent = kind.label;
  byId("amount-note").textContent = kind.note;
  sayAmount();
}

function sayAmount() {
  const words = KINDS[state.kind].shown(state.amounts[state.kind]);
  byId("amount-shown").textContent = words;
  byId("amount").setAttribute("aria-valuetext", words);
}

const budget = () => ({ [state.kind]: state.amounts[state.kind] });

// --- Which items may come back.

const only = () => ({ feature: state.only.map((each) => each.feature), value: state.only.map((each) => each.value) });

function findValues(text) {
  const wanted = text.trim().toLowerCase();
  const found = [];
  for (const { name, values } of service.item_features) {
    for (const value of values) {
      if (value.toLowerCase().includes(wanted)) found.push({ id: value, feature: name, value });
      if (found.length === NUM_VALUES) return found;
    }
  }
  return found;
}

function chooseValue({ feature, value }) {
  if (feature === undefined || state.only.some((each) => each.feature === feature && each.value === value)) return;
  state.only.push({ feature, value });
  showOnly();
  update();
}

function showOnly() {
  byId("only-field").hidden = service.item_features.length === 0;
  byId("only-chosen").replaceChildren(...state.only.map(({ feature, value }, place) =>
    el("li", {}, el("span", {}, `${feature}: ${value}`), removal(`${feature}: ${value}`, () => {
      state.only.splice(place, 1);
      showOnly();
      byId("only").focus();
      update();
    }))));
}

const removal = (name, onclick) =>
  el("button", { type: "button", class: "remove", "aria-label": `Remove ${name}`, onclick }, "×");

// --- The answer.

async function update() {
  clearTimeout(retry);
  keepInAddress();
  const who = state.who === "user" ? { id: state.id } : { item: state.items.map((item) => item.item_id) };
  const main = byId("main");
  main.setAttribute("aria-busy", "true");
  try {
    const content = await recommend({ ...who, k: state.k, ...only(), ...budget() });
    if (content === null) return; // a newer question is on its way
    if (content.answer.bundle_version !== service.bundle_version) await describe();
    draw(content);
    solved();
  } catch (error) {
    failed(error);
  }
  main.removeAttribute("aria-busy");
}

function draw(content) {
  const { queue_ms, encode_ms } = content.answer.timings;
  const budget_ms = state.kind === "budget_ms" ? state.amounts.budget_ms : null;
  drawVerdict(byId("verdict"), service, content);
  drawLists(byId("lists"), content, openSimilar);
  drawStages(byId("stages"), content, budget_ms);
  drawLadder(byId("ladder"), service, {
    k: state.k, chosen: content.answer.rung, truth: content.truth.rung,
    left_ms: budget_ms === null ? null : Math.max(0, budget_ms - queue_ms - encode_ms - service.overhead_ms),
    floor: state.kind === "min_overlap" ? state.amounts.min_overlap : null,
  });
}

function failed(error) {
  const again = () => (service ? update() : start());
  byId("problem").hidden = false;
  byId("problem").replaceChildren(
    el("p", {}, el("strong", {}, error.message)),
    error.detail && error.detail !== error.message ? el("p", { class: "quiet" }, error.detail) : "",
    el("button", { type: "button", onclick: again }, "Try again"));
  document.body.classList.add("stale");
  // What is wrong with the question stays wrong; a server that was away may come back.
  if (!error.field) retry = setTimeout(again, RETRY_MS);
}

function solved() {
  byId("problem").hidden = true;
  document.body.classList.remove("stale");
}

// --- Who is asked for.

async function chooseUser(id) {
  state.id = id;
  byId("user").value = id;
  update();
  await showPast();
}

async function showPast() {
  const id = state.id;
  const known = service.has_names ? await ask("user", { id }).catch(() => null) : null;
  if (id !== state.id) return;
  byId("past-label").hidden = !known?.latest.length;
  byId("past").replaceChildren(...(known?.latest ?? []).map((item) => el("li", {}, el("button", { type: "button", onclick: () => openSimilar(item) }, item.title))));
}

function showHistory() {
  byId("history").replaceChildren(...state.items.map((item, place) =>
    el("li", {}, el("button", { type: "button", onclick: () => openSimilar(item) }, item.title),
      removal(item.title, () => {
        state.items.splice(place, 1);
        showHistory();
        byId("title").focus();
        update();
      }))));
  byId("no-history").hidden = state.items.length > 0;
}

function addItem(item) {
  state.items.push({ item_id: item.item_id, title: item.title ?? item.item_id });
  showHistory();
  setWho("new");
}

function setWho(who) {
  state.who = who;
  for (const radio of document.getElementsByName("who")) radio.checked = radio.value === who;
  byId("as-user").hidden = who !== "user";
  byId("as-new").hidden = who !== "new";
  update();
}

// --- Items near an item.

async function openSimilar(item) {
  const dialog = byId("similar");
  byId("similar-title").textContent = `Near ${item.title}`;
  byId("similar-said").textContent = "Searching…";
  byId("similar-lists").replaceChildren();
  byId("similar-add").onclick = () => { dialog.close(); addItem(item); };
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  try {
    const content = await similar({ item: item.item_id, k: state.k, ...only(), ...budget() });
    if (content === null) return;
    const { answer, num_kept, truth } = content;
    byId("similar-said").textContent = `${num_kept} of ${truth.items.length} kept at width ${count(answer.width)} by ${answer.rung}.`;
    drawLists(byId("similar-lists"), content, openSimilar);
  } catch (error) {
    byId("similar-said").textContent = error.message;
  }
}

// --- Start.

function keepInAddress() {
  const words = new URLSearchParams();
  if (state.who === "user") words.set("id", state.id);
  else for (const item of state.items) words.append("item", item.item_id);
  for (const { feature, value } of state.only) {
    words.append("feature", feature);
    words.append("value", value);
  }
  words.set("k", state.k);
  words.set(state.kind, state.amounts[state.kind]);
  history.replaceState(null, "", `?${words}`);
}

async function readAddress() {
  const words = new URLSearchParams(location.search);
  state.k = Math.min(service.max_k, Number(words.get("k")) || Math.min(10, service.max_k));
  for (const kind of Object.keys(KINDS)) {
    const amount = Number(words.get(kind));
    if (amount > 0) {
      state.kind = kind;
      state.amounts[kind] = kind === "width" && !service.widths.includes(amount) ? service.widths[0] : amount;
    }
  }
  const values = words.getAll("value");
  state.only = words.getAll("feature").map((feature, place) => ({ feature, value: values[place] ?? "" }));
  if (words.has("item")) state.who = "new";
  state.items = await Promise.all(words.getAll("item").map(async (item_id) => {
    const found = await ask("items", { text: item_id });
    return found.find((item) => item.item_id === item_id) ?? { item_id, title: item_id };
  }));
  state.id = words.get("id") || (await ask("users", {}))[0]?.user_id || "";
  if (!state.id && !words.has("item")) state.who = "new";
}

async function describe() {
  service = { ...service, ...(await ask("service")) };
  const { address, num_items, num_users, widths, bundle_version, has_names } = service;
  byId("service").textContent =
    `${address} serves ${count(num_items)} items to ${count(num_users)} users, at widths ${widths.map(count).join(", ")} · ` +
    `bundle ${bundle_version}${has_names ? "" : " · ids only: to find users and titles by name, start this with --bundles"}`;
}

// What a call takes around its search in a calm moment (the first calls of a connection are slower), and what the server
// expects the best rung's search to take now.
async function measureBase() {
  const answers = [];
  for (let call = 0; call < 3; call++) answers.push((await ask("recommend", { k: state.k })).answer);
  const before = ({ timings }) => timings.queue_ms + timings.encode_ms;
  service.base_ms = service.overhead_ms + Math.min(...answers.map(before));
  service.search_ms = Math.max(...answers.map((answer) => answer.predicted_ms - before(answer) - service.overhead_ms));
}

function listen() {
  combobox(byId("user"), {
    placeholder: service.has_names ? "Type to find one" : "Type an id",
    find: async (text) => (await findUsers({ text: text === state.id ? "" : text }))?.map((user) => ({ ...user, id: user.user_id })) ?? null,
    show: (user) => [el("span", {}, user.user_id), el("small", {}, `${count(user.num_items)} items`)],
    choose: (user) => chooseUser(user.id),
  });
  combobox(byId("title"), {
    placeholder: service.has_names ? "Search titles" : "Type an item id",
    find: (text) => (text.trim() ? findItems({ text }) : []),
    show: (item) => [el("span", {}, item.title), el("small", {}, `${count(item.num_users)} users`)],
    choose: (item) => addItem({ item_id: item.item_id ?? item.id, title: item.title }),
    clear: true,
  });
  combobox(byId("only"), {
    placeholder: service.item_features.map((each) => each.name.replaceAll("_", " ")).join(", "),
    find: findValues,
    show: ({ feature, value }) => [el("span", {}, value), el("small", {}, feature)],
    choose: chooseValue,
    clear: true,
  });
  for (const radio of document.getElementsByName("who")) radio.addEventListener("change", () => setWho(radio.value));
  for (const radio of document.getElementsByName("budget")) {
    radio.addEventListener("change", () => { state.kind = radio.value; showBudget(); update(); });
  }
  byId("amount").addEventListener("input", (event) => {
    const kind = KINDS[state.kind];
    state.amounts[state.kind] = kind.at(event.target.value / STEPS, kind.ends());
    sayAmount();
    update();
  });
  byId("k").addEventListener("change", (event) => { state.k = Number(event.target.value); showBudget(); update(); });
  byId("similar-close").addEventListener("click", () => byId("similar").close());
  byId("similar").addEventListener("click", (event) => { if (event.target === byId("similar")) byId("similar").close(); });
}

async function start() {
  clearTimeout(retry);
  try {
    await describe();
    await readAddress();
    await measureBase();
  } catch (error) {
    service = undefined;
    failed(error);
    return;
  }
  solved();
  byId("main").hidden = false;
  const ks = [...new Set([...KS.filter((k) => k <= service.max_k), state.k])].sort((a, b) => a - b);
  byId("k").replaceChildren(...ks.map((k) => el("option", { value: k, selected: k === state.k }, String(k))));
  for (const radio of document.getElementsByName("budget")) radio.checked = radio.value === state.kind;
  byId("user").value = state.id;
  listen();
  showBudget();
  showHistory();
  showOnly();
  setWho(state.who);
  if (service.has_traffic) watchTraffic(service);
  await showPast();
}

start();
