// Marks a choice as being sent, from the click until the response.
// Sets a cookie with the time at which a vote is sent, before it is. The server removes it with its
// answer, and refuses a vote that is so old that the page has given up. If the cookie is still there
// when the page is loaded, the outcome of that vote is not known.
// When another question replaces the one that was shown, a choice that had the focus loses it, and none
// can be made for a moment: a click or a key then was meant for the earlier question.
const { content: cookie } = document.querySelector('meta[name="unanswered"]');
const { content } = document.querySelector('meta[name="sending"]');

const spoken = document.getElementById("spoken");
const REACTION = 500; // milliseconds
let shown = ballot().dataset.round;
let changed = -REACTION;
let hadFocus = false; // a choice, or one that lost it as the poll was closed
let problem = problemIn(ballot()); // of the last poll

function ballot() {
  return document.getElementById("ballot");
}

function problemIn(part) {
  return part.querySelector(".problem")?.textContent;
}

function showSent(button) {
  for (const each of document.querySelectorAll(".choice")) {
    each.querySelector(".mark").dataset.sending = content;
    each.classList.toggle("sending", each === button);
    each.classList.toggle("resting", button !== null && each !== button);
  }
}

function unmark() {
  showSent(null);
  for (const each of document.querySelectorAll(".choice")) {
    each.setAttribute("aria-pressed", "false");
    each.querySelector(".mark").textContent = "";
  }
}

// The cookie has the times of the first vote without an answer, and of this one.
function setCookie() {
  const now = Math.round(Date.now() - Number(document.documentElement.dataset.ahead));
  const known = document.cookie.match(new RegExp(`(?:^|; )${cookie}=(\\d+)`));
  const secure = cookie.startsWith("__Host-") ? "; Secure" : "";
  const attributes = `; Max-Age=31536000; Path=/; SameSite=Lax${secure}`;
  document.cookie = `${cookie}=${known ? known[1] : now}.${now}${attributes}`;
}

document.addEventListener("submit", ({ submitter }) => {
  showSent(submitter);
  if (!window.htmx) setCookie();
});
document.addEventListener("htmx:before:request", (event) => {
  if (event.detail.ctx.request.method === "POST") setCookie();
});
document.addEventListener("voting:lost", unmark);
window.addEventListener("pageshow", () => showSent(null)); // back from another page

// Before another question is shown, or the poll is closed or opened.
document.addEventListener("htmx:before:swap", ({ detail: { ctx, tasks } }) => {
  if (document.activeElement !== document.body) hadFocus = document.activeElement.matches(".choice");
  const part = tasks[0]?.fragment;
  const next = part?.querySelector("#ballot");
  const notes = document.getElementById("notes");
  if (!next) {
    if (!part?.querySelector(".problem")) return;
    // A problem without the question, which is not known now: polls leave it where it is too.
    unmark();
    notes.setAttribute("hx-morph-skip", "");
    return;
  }
  const { dataset, classList } = ballot();
  const same = next.dataset.round === dataset.round && next.matches(".closed") === classList.contains("closed");
  const polled = ctx.request.method === "GET";
  // Polls leave a problem where it is, until there is other news.
  const news = !same || (problemIn(next) && problemIn(next) !== problem);
  if (news || !polled) notes.removeAttribute("hx-morph-skip");
  if (polled) problem = problemIn(next);
});

function pause() {
  const choices = document.querySelector(".choices");
  const rest = changed + REACTION - performance.now();
  if (choices) choices.inert = rest > 0;
  if (rest > 0) setTimeout(pause, rest);
}

document.addEventListener("htmx:after:swap", () => {
  const { round } = ballot().dataset;
  if (round !== shown) {
    shown = round;
    changed = performance.now();
    const heading = ballot().querySelector("h1");
    document.title = heading.textContent;
    if (hadFocus) heading.focus(); // screen readers read it
    else spoken.textContent = heading.textContent;
  }
  pause();
});
