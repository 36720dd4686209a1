// Polls less often while the server does not respond, and shows that the page is out of date.

const SLOWEST = 15000; // milliseconds between two polls while the server does not respond
const started = Date.now();
const parts = new Map(); // state by element id

// Consecutive failures, the time of the next poll, and the time of the last response.
function stateOf({ id }) {
  if (!parts.has(id)) parts.set(id, { failed: 0, rest: 0, answered: started });
  return parts.get(id);
}

// Called also for responses that the app did not send, such as a proxy's error page: they must not
// replace parts of the page.
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
  // Votes are always sent. Hidden pages do not poll, nor does a part before its next poll is due.
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

// A page that becomes visible polls at once.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  for (const state of parts.values()) state.rest = 0;
  for (const part of document.querySelectorAll("[hx-trigger]")) part.dispatchEvent(new Event("again"));
});
