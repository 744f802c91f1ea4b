// An input with suggestions, as https://www.w3.org/WAI/ARIA/apg/patterns/combobox/ describes it: arrows move through
// the list, Enter takes what is marked or, with nothing marked, the text itself; Escape closes the list.

import { el } from "./dom.js";

export function combobox(input, { find, show, choose, placeholder, clear = false }) {
  const list = el("ul", { role: "listbox", id: `${input.id}-list`, hidden: true });
  input.after(list);
  const attributes = {
    type: "text", role: "combobox", autocomplete: "off", spellcheck: "false", placeholder,
    "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": list.id,
  };
  for (const [name, value] of Object.entries(attributes)) input.setAttribute(name, value);
  let found = [];
  let marked = -1;
  let asked = 0;

  function close() {
    list.hidden = true;
    asked += 1; // whatever is still on its way comes too late
    mark(-1);
    input.setAttribute("aria-expanded", "false");
  }

  function mark(place) {
    marked = place;
    [...list.children].forEach((option, each) => option.setAttribute("aria-selected", String(each === place)));
    if (place < 0) input.removeAttribute("aria-activedescendant");
    else {
      input.setAttribute("aria-activedescendant", `${list.id}-${place}`);
      list.children[place].scrollIntoView({ block: "nearest" });
    }
  }

  function take(value) {
    close();
    input.value = clear ? "" : (value.id ?? "");
    choose(value);
  }

  async function open() {
    const mine = ++asked;
    const values = await find(input.value);
    if (mine !== asked || values === null) return;
    found = values;
    list.replaceChildren(
      ...found.map((value, place) =>
        el("li", { role: "option", id: `${list.id}-${place}`, "aria-selected": "false",
          // Before the input loses focus, which closes the list.
          onmousedown: (event) => { event.preventDefault(); take(value); } }, show(value)),
      ),
    );
    mark(-1);
    list.hidden = found.length === 0;
    input.setAttribute("aria-expanded", String(found.length > 0));
  }

  input.addEventListener("input", open);
  input.addEventListener("focus", () => { input.select(); open(); });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) { open(); return; }
      const step = event.key === "ArrowDown" ? 1 : -1;
      mark((marked + step + found.length + (marked < 0 && step < 0 ? 1 : 0)) % found.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (marked >= 0) take(found[marked]);
      else if (input.value.trim()) take({ id: input.value.trim() });
    } else if (event.key === "Escape") close();
  });
}
