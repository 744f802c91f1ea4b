// Elements and numbers. Text only ever becomes text nodes, so no title or id can be markup.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

export const el = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, tag), attributes, children);

export const count = (number) => number.toLocaleString("en");

export const share = (number) => (number === 1 ? "1" : number.toFixed(number > 0.995 ? 4 : 3).replace(/^0/, ""));

// Three digits say enough of a time, and fewer jump less while a slider moves.
export function ms(number) {
  if (number === 0) return "0 ms";
  if (number < 0.01) return "under 0.01 ms";
  return `${number < 10 ? number.toFixed(2) : number < 100 ? number.toFixed(1) : Math.round(number)} ms`;
}

export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  for (; number >= 999.5 && place < units.length - 1; place++) number /= 1000;
  return `${number < 10 && place ? number.toFixed(1) : Math.round(number)} ${units[place]}`;
}
