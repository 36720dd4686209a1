// Marks a choice as being sent, from the click until the response.
// Sets a cookie with the time at which a vote is sent, before it is. The server removes it with its
// answer, and refuses a vote that is so old that the page has given up. If the cookie is still there
// when the page is loaded, the outcome of that vote is not known.
const { content: cookie } = document.querySelector('meta[name="unanswered"]');
const { content } = document.querySelector('meta[name="sending"]');

function showSent(button) {
  for (const each of document.querySelectorAll(".choice")) {
    each.querySelector(".mark").dataset.sending = content;
    each.classList.toggle("sending", each === button);
    each.classList.toggle("resting", button !== null && each !== button);
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
document.addEventListener("voting:lost", () => {
  showSent(null);
  for (const each of document.querySelectorAll(".choice")) {
    each.setAttribute("aria-pressed", "false");
    each.querySelector(".mark").textContent = "";
  }
});
window.addEventListener("pageshow", () => showSent(null)); // back from another page
