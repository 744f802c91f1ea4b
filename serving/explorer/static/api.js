// Questions to the page's own server. What went wrong is thrown as a Problem that says so in words.

export class Problem extends Error {
  constructor({ message, field = "", detail = "" }) {
    super(message);
    this.field = field;
    this.detail = detail;
  }
}

export async function ask(name, query = {}) {
  const words = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) words.append(key, each);
  }
  let response;
  try {
    response = await fetch(`/api/${name}?${words}`);
  } catch {
    throw new Problem({ message: "This page's own server does not answer. Is `recsys explore` still running?" });
  }
  if (response.ok) return response.json();
  const content = await response.json().catch(() => ({}));
  throw new Problem(content.error ?? { message: `The page's server answered with status ${response.status}.` });
}

// A question asked again and again, one at a time: of those that come meanwhile only the latest is asked, and the
// others get null. So a slider that moves shows as many answers as the server gives, and never an older one after a newer one.
export function latest(name) {
  let running = null;
  let waiting = null;
  return async (query) => {
    const mine = (waiting = {});
    while (running) await running.catch(() => null);
    if (mine !== waiting) return null;
    running = ask(name, query);
    try {
      return await running;
    } finally {
      running = null;
    }
  };
}
