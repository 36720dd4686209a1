// When the parts of a page ask for what is new, and what they say when nobody answers.

const SLOWEST = 15000; // milliseconds between two looks while the server is away
const started = Date.now();
const parts = new Map(); // by their id

// How often in a row a part got no answer, until when it rests, and when it last got one.
function stateOf({ id }) {
  if (!parts.has(id)) parts.set(id, { failed: 0, rest: 0, answered: started });
  return parts.get(id);
}

// What is not the app's own, such as a proxy's error page, is no answer either, and must not take
// the place of the page's parts.
function sayLost({ target }) {
  const state = stateOf(target);
  state.failed += 1;
  state.rest = Date.now() + Math.min(1000 * 2 ** state.failed, SLOWEST) - 100;
  const lost = document.querySelector("template.lost");
  if (!lost || target.id !== lost.dataset.of) return;
  const notes = target.querySelector(".notes");
  if (notes.querySelector(".lost")) return;
  notes.replaceChildren(lost.content.cloneNode(true));
  const time = notes.querySelector("time");
  if (time) time.dataset.since = state.answered;
  document.dispatchEvent(new Event("voting:lost"));
}

document.addEventListener("htmx:before:request", (event) => {
  // A vote is always sent; a page that nobody sees, or nobody answers, can wait.
  if (event.detail.ctx.request.method !== "GET") return;
  if (document.hidden || Date.now() < stateOf(event.target).rest) event.preventDefault();
});

document.addEventListener("htmx:error", sayLost);
document.addEventListener("htmx:before:response", (event) => {
  const { response } = event.detail.ctx;
  if (!response.headers.has("Voting-Fragment")) {
    event.preventDefault();
    sayLost(event);
    return;
  }
  Object.assign(stateOf(event.target), { failed: 0, rest: 0, answered: Date.now() });
});

// Who comes back sees at once what is new.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  for (const state of parts.values()) state.rest = 0;
  for (const part of document.querySelectorAll("[hx-trigger]")) part.dispatchEvent(new Event("again"));
});
